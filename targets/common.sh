# Sourced by the scripts of this folder: a board's settings, and cargo set up to build for it.
# Wants `here` to be this folder.

fail() {
  echo "$script: $*" >&2
  exit 1
}

boards() {
  for file in "$here"/*/board; do basename "$(dirname "$file")"; done
}

# Reads a board's settings.
board() {
  [ -f "$here/$1/board" ] || fail "there is no board \`$1\`; there are: $(boards | tr '\n' ' ')"
  . "$here/$1/board"
}

# The triple of a Debian architecture, and back.
triple_of() {
  case $1 in
    arm64) echo aarch64-unknown-linux-gnu ;;
    armhf) echo armv7-unknown-linux-gnueabihf ;;
    amd64) echo x86_64-unknown-linux-gnu ;;
    *) fail "no architecture \`$1\`: arm64, armhf and amd64 are there" ;;
  esac
}

architecture_of() {
  for architecture in arm64 armhf amd64; do
    [ "$(triple_of $architecture)" = "$1" ] && echo $architecture && return
  done
  fail "no Debian architecture for $1"
}

# What gcc and Debian's folders call a triple.
gnu_of() {
  case $1 in
    aarch64-*) echo aarch64-linux-gnu ;;
    armv7-*) echo arm-linux-gnueabihf ;;
    x86_64-*) echo x86_64-linux-gnu ;;
  esac
}

# The first compiler that has the standard library of a triple: the one in the path, or the distribution's.
compiler_for() {
  for compiler in rustc /usr/bin/rustc; do
    root=$($compiler --print sysroot 2>/dev/null) || continue
    [ -d "$root/lib/rustlib/$1/lib" ] && echo "$compiler" && return
  done
  return 1
}

host() { rustc -vV | sed -n 's/^host: //p'; }

# Sets the environment that cargo needs to build for a triple, `cargo`, its arguments `to`, and where programs `come_out`.
cross() {
  triple=$1
  gnu=$(gnu_of "$triple")
  RUSTC=$(compiler_for "$triple") || fail "no compiler has the standard library of $triple; run targets/setup $(architecture_of "$triple")"
  export RUSTC
  cargo=cargo
  [ "$RUSTC" = rustc ] || cargo=$(dirname "$RUSTC")/cargo
  if [ "$triple" = "$(host)" ]; then
    to=""
    come_out=${CARGO_TARGET_DIR:-$here/../target}
    return
  fi
  # Artefacts of two compilers do not mix: a folder of its own, beside the one for this machine.
  export CARGO_TARGET_DIR="${CROSS_TARGET_DIR:-$here/../target/cross}"
  to="--target $triple"
  come_out=$CARGO_TARGET_DIR/$triple
  name=$(echo "$triple" | tr a-z- A-Z_)
  export "CARGO_TARGET_${name}_LINKER=$gnu-gcc" PKG_CONFIG_ALLOW_CROSS=1
  export "PKG_CONFIG_LIBDIR_$(echo "$triple" | tr - _)=/usr/lib/$gnu/pkgconfig:/usr/share/pkgconfig"
}

# What runs a program of a triple here: nothing, or an emulator.
emulator_of() {
  case $1 in
    "$(host)") ;;
    aarch64-*) echo qemu-aarch64 ;;
    armv7-*) echo qemu-arm ;;
  esac
}
