//! Transposition of 16 × 16 numbers: in registers with AVX-512, number by number elsewhere.
#![cfg_attr(target_arch = "x86_64", allow(unsafe_code))]

/// Rows and columns of a block.
pub const SIDE: usize = 16;

/// Writes the transposed `rows`, times `scale`, to `columns`.
pub fn transpose(rows: &[&[f32; SIDE]; SIDE], scale: f32, columns: &mut [[f32; SIDE]; SIDE]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the feature.
        unsafe { in_registers(rows, scale, columns) };
        return;
    }
    for (r, row) in rows.iter().enumerate() {
        for (column, x) in columns.iter_mut().zip(*row) {
            column[r] = x * scale;
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn in_registers(rows: &[&[f32; SIDE]; SIDE], scale: f32, columns: &mut [[f32; SIDE]; SIDE]) {
    use std::arch::x86_64::{
        _mm512_castpd_ps, _mm512_castps_pd, _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };

    let scale = _mm512_set1_ps(scale);
    let mut x = [_mm512_setzero_ps(); SIDE];
    for (x, row) in x.iter_mut().zip(rows) {
        // SAFETY: a row has the size of the vector, and the instruction needs no alignment.
        *x = _mm512_mul_ps(unsafe { _mm512_loadu_ps(row.as_ptr()) }, scale);
    }
    // Quarter q of vector 4i + c: column 4q + c of rows 4i to 4i + 3.
    for i in [0, 4, 8, 12] {
        let (a, b) = (_mm512_unpacklo_ps(x[i], x[i + 1]), _mm512_unpacklo_ps(x[i + 2], x[i + 3]));
        let (c, d) = (_mm512_unpackhi_ps(x[i], x[i + 1]), _mm512_unpackhi_ps(x[i + 2], x[i + 3]));
        let (a, b, c, d) = (_mm512_castps_pd(a), _mm512_castps_pd(b), _mm512_castps_pd(c), _mm512_castps_pd(d));
        x[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
        x[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        x[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(c, d));
        x[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(c, d));
    }
    // The even and the odd quarters of two vectors, twice.
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    for c in 0..4 {
        let (a, b) = (_mm512_shuffle_f32x4::<EVEN>(x[c], x[4 + c]), _mm512_shuffle_f32x4::<EVEN>(x[8 + c], x[12 + c]));
        let (d, e) = (_mm512_shuffle_f32x4::<ODD>(x[c], x[4 + c]), _mm512_shuffle_f32x4::<ODD>(x[8 + c], x[12 + c]));
        let quarters = [
            _mm512_shuffle_f32x4::<EVEN>(a, b),
            _mm512_shuffle_f32x4::<EVEN>(d, e),
            _mm512_shuffle_f32x4::<ODD>(a, b),
            _mm512_shuffle_f32x4::<ODD>(d, e),
        ];
        for (q, column) in quarters.into_iter().enumerate() {
            // SAFETY: a column has the size of the vector, and the instruction needs no alignment.
            unsafe { _mm512_storeu_ps(columns[4 * q + c].as_mut_ptr(), column) };
        }
    }
}
