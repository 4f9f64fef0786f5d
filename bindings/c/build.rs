//! Names the interface version in the shared library, so that programs load only a compatible one.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/lib.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        let source = std::fs::read_to_string("src/lib.rs").unwrap_or_default();
        let declared = source.lines().find_map(|line| line.strip_prefix("pub const BELLIS_API: u32 = ")?.strip_suffix(';'));
        match declared {
            Some(version) => println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libbellis_c.so.{version}"),
            None => println!("cargo::error=src/lib.rs does not declare BELLIS_API"),
        }
    }
}
