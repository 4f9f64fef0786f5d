# Functions for the scripts in this folder: board settings, and the cross-compilation environment for cargo.
# Requires `here` to be this folder.

fail() {
  echo "$script: $*" >&2
  exit 1
}

boards() {
  for file in "$here"/*/board; do basename "$(dirname "$file")"; done
}

# Reads a board's settings.
board() {
  [ -f "$here/$1/board" ] || fail "no board \`$1\`; available: $(boards | tr '\n' ' ')"
  . "$here/$1/board"
}

# Converts a Debian architecture to its triple, and back.
triple_of() {
  case $1 in
    arm64) echo aarch64-unknown-linux-gnu ;;
    amd64) echo x86_64-unknown-linux-gnu ;;
    *) fail "no architecture \`$1\`; available: arm64, amd64" ;;
  esac
}

architecture_of() {
  for architecture in arm64 amd64; do
    [ "$(triple_of $architecture)" = "$1" ] && echo $architecture && return
  done
  fail "no Debian architecture for $1"
}

# The GNU name of a triple, used by gcc and Debian's folders.
gnu_of() {
  case $1 in
    aarch64-*) echo aarch64-linux-gnu ;;
    x86_64-*) echo x86_64-linux-gnu ;;
  esac
}

# The first compiler with the standard library of a triple: the one in the path, or the distribution's.
compiler_for() {
  for compiler in rustc /usr/bin/rustc; do
    root=$($compiler --print sysroot 2>/dev/null) || continue
    [ -d "$root/lib/rustlib/$1/lib" ] && echo "$compiler" && return
  done
  return 1
}

host() { rustc -vV | sed -n 's/^host: //p'; }

# Sets the environment for building for a triple, and the variables `cargo`, `to` (cargo's arguments) and `output_dir`.
cross() {
  triple=$1
  name=$(echo "$triple" | tr a-z- A-Z_)
  gnu=$(gnu_of "$triple")
  RUSTC=$(compiler_for "$triple") || fail "no compiler has the standard library of $triple; run targets/setup $(architecture_of "$triple")"
  export RUSTC
  cargo=cargo
  [ "$RUSTC" = rustc ] || cargo=$(dirname "$RUSTC")/cargo
  if [ "$triple" = "$(host)" ]; then
    to=""
    output_dir=${CARGO_TARGET_DIR:-$here/../target}
    return
  fi
  # Artefacts of two compilers cannot share a folder, so this one is separate from this machine's.
  export CARGO_TARGET_DIR="${CROSS_TARGET_DIR:-$here/../target/cross}"
  to="--target $triple"
  output_dir=$CARGO_TARGET_DIR/$triple
  export "CARGO_TARGET_${name}_LINKER=$gnu-gcc" PKG_CONFIG_ALLOW_CROSS=1
  export "PKG_CONFIG_LIBDIR_$(echo "$triple" | tr - _)=/usr/lib/$gnu/pkgconfig:/usr/share/pkgconfig"
}

# The emulator for a triple's programs; empty for this machine's.
emulator_of() {
  case $1 in
    "$(host)") ;;
    aarch64-*) echo qemu-aarch64 ;;
  esac
}
