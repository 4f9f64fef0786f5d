# Functions of scripts that work in Debian root folders, as root: `register_emulator ARCH`, `clean_root FOLDER ARCH SUITE PACKAGES`,
# `in_root FOLDER COMMAND`. MIRROR selects another mirror than debootstrap's.
# For bash. Requires `script`, the path of the script in the current folder.

# Re-executes the script in a mount namespace of its own, once.
own_mounts() {
  [ "$(id -u)" = 0 ] || { echo "$script: needs root (debootstrap, chroot)" >&2; exit 1; }
  [ -n "${BELLIS_OWN_MOUNTS:-}" ] || BELLIS_OWN_MOUNTS=1 exec unshare --mount "$script" "$@"
}

registered=""

# Makes the kernel run programs of a foreign architecture (binfmt_misc). F opens the emulator now, so that the root does not need it.
register_emulator() {
  [ "$1" != "$(dpkg --print-architecture)" ] || return 0
  local emulator magic mask formats=/proc/sys/fs/binfmt_misc
  case $1 in
    arm64) emulator=qemu-aarch64-static magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00' ;;
    *) echo "$script: no emulator for $1" >&2; exit 1 ;;
  esac
  [ -e $formats/register ] || mount -t binfmt_misc binfmt_misc $formats
  if ! grep -qs "interpreter.*${emulator%-static}" $formats/*; then
    mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    echo ":bellis-$1:M::$magic:$mask:$(command -v $emulator):F" >$formats/register
    registered=$formats/bellis-$1
  fi
}

unregister_emulator() { [ -z "$registered" ] || echo -1 >"$registered"; }

# Creates a minimal Debian root, unless the folder exists.
clean_root() {
  local folder=$1 architecture=$2 suite=$3 packages=$4
  [ ! -d "$folder" ] || return 0
  command -v debootstrap >/dev/null || apt-get -o DPkg::Lock::Timeout=600 install -y -qq --no-install-recommends debootstrap >/dev/null
  rm -rf --one-file-system "$folder.part"
  mkdir -p "$(dirname "$folder")"
  # shellcheck disable=SC2086
  debootstrap --arch="$architecture" --variant=minbase --include="$packages" "$suite" "$folder.part" ${MIRROR:-} >"$folder.log" 2>&1 ||
    { tail -5 "$folder.log" >&2; exit 1; }
  # No services, progress bars or translations.
  printf '#!/bin/sh\nexit 101\n' >"$folder.part/usr/sbin/policy-rc.d"
  chmod +x "$folder.part/usr/sbin/policy-rc.d"
  echo 'Dpkg::Use-Pty "0"; Acquire::Languages "none";' >"$folder.part/etc/apt/apt.conf.d/99quiet"
  mv "$folder.part" "$folder"
}

in_root() {
  local root=$1
  shift
  chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"
}
