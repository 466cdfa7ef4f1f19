# shellcheck shell=bash
# Shared by devstack/demo, up, down, status and test; sourced, not run.
#
# Brings a fresh Debian 12 to the point where `python -m devstack …` runs: checks what the machine must offer,
# installs the system packages that are missing (without letting any of them start a service), makes the virtual
# environment and installs the project into it. When everything is there already it does nothing but look.

set -euo pipefail

# Container images like to set it. Every process of a stack would compile the whole program anew then: more than half of what starting costs.
unset PYTHONDONTWRITEBYTECODE

DEVSTACK_DIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
ROOT_DIR="$(dirname "$DEVSTACK_DIR")"
VENV_DIR="${CRASHCART_VENV:-$DEVSTACK_DIR/.venv}"
CACHE_DIR="${CRASHCART_CACHE:-$DEVSTACK_DIR/.cache}"
EXTRAS="${CRASHCART_EXTRAS:-libvirt,bmc,keystone,postgresql,mariadb,test,check}"
SETUP_LOG="$CACHE_DIR/setup.log"

# libvirt-daemon alone, without libvirt-daemon-system, brings the binary and no service. libc6-dev and gcc build
# libvirt-python and the static program that loads the guest's crash kernel: kexec-tools would do that too, but
# hooks itself into the reboot of the machine it is installed on. openipmi is a simulator of BMCs, libopenipmi-dev
# what a module of it is built with.
SYSTEM_PACKAGES=(
    rabbitmq-server
    libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients libvirt-dev
    qemu-system-x86 qemu-utils
    busybox-static makedumpfile cpio xz-utils
    openipmi libopenipmi-dev ipmitool
    postgresql-15
    mariadb-server-core mariadb-client
    haproxy
    gcc libc6-dev pkg-config python3-dev python3-venv
)

now_ms() { date +%s%3N; }

step_line() {  # step_line START_MS TEXT: one line per set-up step, with the time it took
    printf '[%7.1f s] %s\n' "$(awk -v ms="$(($(now_ms) - $1))" 'BEGIN { print ms / 1000 }')" "$2"
}

fail_step() {  # fail_step WHAT ADVICE
    {
        printf '\ndevstack: FAILED: %s\n' "$1"
        printf '  log:        %s (last lines below)\n' "$SETUP_LOG"
        printf '  what to do: %s\n' "$2"
        tail -n 15 "$SETUP_LOG" | sed 's/^/  | /'
    } >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]
}

list_missing_packages() {
    local package
    for package in "${SYSTEM_PACKAGES[@]}"; do
        is_installed "$package" || printf '%s\n' "$package"
    done
}

check_machine() {  # what no package can mend, named all at once
    local problems=() id='' version=''
    if [ -r /etc/os-release ]; then
        id="$(. /etc/os-release && printf '%s' "${ID:-}")"
        version="$(. /etc/os-release && printf '%s' "${VERSION_ID:-}")"
    fi
    if [ "$id" != debian ] || [ "$version" != 12 ]; then
        problems+=("distribution: Debian 12 is needed, this is '${id:-unknown} ${version:-?}'.
      Elsewhere provide by hand: ${SYSTEM_PACKAGES[*]}, and a Debian 12 kernel for the guests")
    fi
    [ "$(uname -m)" = x86_64 ] || problems+=("architecture: x86_64 is needed, this is $(uname -m)")
    if [ "${#MISSING_PACKAGES[@]}" -gt 0 ] && [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            problems+=("privilege: not root and there is no sudo, but packages are missing: ${MISSING_PACKAGES[*]}")
        elif ! sudo -n true 2>/dev/null && [ ! -t 0 ]; then
            problems+=("privilege: sudo asks for a password and there is no terminal; run as root once:
      apt-get install --no-install-recommends ${MISSING_PACKAGES[*]}")
        fi
    fi
    if [ "$(id -u)" -eq 0 ] && ! unshare --mount true 2>/dev/null; then
        problems+=("privilege: root may not make mounts here (CAP_SYS_ADMIN is missing, as in many containers), so libvirtd
      cannot be kept private; run as an unprivileged user instead, then it runs in session mode")
    fi
    if ! mkdir -p "$CACHE_DIR" 2>/dev/null || [ ! -w "$CACHE_DIR" ]; then
        problems+=("directory: $CACHE_DIR cannot be written; choose another with CRASHCART_CACHE=DIR")
    fi
    if [ "${#problems[@]}" -gt 0 ]; then
        {
            printf 'devstack: this machine lacks what crashcart needs:\n'
            printf '  - %s\n' "${problems[@]}"
        } >&2
        exit 1
    fi
}

install_packages() {
    local started policy=/usr/sbin/policy-rc.d kept='' units=() cluster_policy=/etc/postgresql-common/createcluster.conf
    started="$(now_ms)"
    printf '             installing %s system packages (log: %s) ...\n' "${#MISSING_PACKAGES[@]}" "$SETUP_LOG"
    case " ${MISSING_PACKAGES[*]} " in *' rabbitmq-server '*) units+=(rabbitmq-server.service epmd.service epmd.socket) ;; esac
    case " ${MISSING_PACKAGES[*]} " in *' openipmi '*) units+=(openipmi.service) ;; esac
    case " ${MISSING_PACKAGES[*]} " in *' ipmitool '*) units+=(ipmievd.service) ;; esac
    case " ${MISSING_PACKAGES[*]} " in *' haproxy '*) units+=(haproxy.service) ;; esac

    # invoke-rc.d and deb-systemd-invoke ask this file before they start a service; 101 means "not allowed".
    if as_root test -e "$policy" || as_root test -L "$policy"; then
        kept="$policy.before-crashcart"
        as_root mv "$policy" "$kept"
    fi
    # shellcheck disable=SC2064  # expanded now on purpose: the trap must know what to restore
    trap "restore_policy '$policy' '$kept'" EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"

    # Without a word to the contrary PostgreSQL's package makes a database cluster, which runs from the next boot on.
    if ! as_root test -e "$cluster_policy"; then
        as_root mkdir -p "$(dirname "$cluster_policy")"
        printf 'create_main_cluster = false\n' | as_root tee "$cluster_policy" >/dev/null
    fi

    as_root apt-get update >>"$SETUP_LOG" 2>&1 \
        || fail_step 'apt-get update' 'see whether the Debian mirror is reachable, then run the same command again'
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        "${MISSING_PACKAGES[@]}" >>"$SETUP_LOG" 2>&1 \
        || fail_step 'apt-get install' "run it by hand: apt-get install --no-install-recommends ${MISSING_PACKAGES[*]}"

    restore_policy "$policy" "$kept"
    trap - EXIT
    # Packages enable their services for the next boot; crashcart runs private ones and wants no others.
    if [ "${#units[@]}" -gt 0 ] && command -v systemctl >/dev/null; then
        as_root systemctl disable "${units[@]}" >>"$SETUP_LOG" 2>&1 || true
    fi
    step_line "$started" "system packages installed, no service started (${#MISSING_PACKAGES[@]})"
}

restore_policy() {  # restore_policy FILE KEPT: put back the machine's own policy-rc.d
    as_root rm -f "$1"
    if [ -n "$2" ]; then as_root mv "$2" "$1"; fi
}

venv_key() {  # changes when the environment must be installed anew
    {
        cat "$ROOT_DIR/setup.cfg" "$ROOT_DIR/pyproject.toml" 2>/dev/null || true
        printf '%s\n%s\n' "$ROOT_DIR" "$EXTRAS"
        python3 --version
    } | sha256sum | cut -d' ' -f1
}

install_project() {
    local started key
    key="$(venv_key)"
    if [ -x "$VENV_DIR/bin/python" ] && [ "$(cat "$VENV_DIR/.crashcart-key" 2>/dev/null || true)" = "$key" ]; then
        return
    fi
    started="$(now_ms)"
    printf '             installing the project into %s (log: %s) ...\n' "$VENV_DIR" "$SETUP_LOG"
    if [ ! -x "$VENV_DIR/bin/python" ]; then
        python3 -m venv "$VENV_DIR" >>"$SETUP_LOG" 2>&1 \
            || fail_step 'making the virtual environment' "remove $VENV_DIR, or choose another with CRASHCART_VENV=DIR"
    fi
    "$VENV_DIR/bin/python" -m pip install -e "$ROOT_DIR[$EXTRAS]" >>"$SETUP_LOG" 2>&1 \
        || fail_step 'installing the project and its libraries' \
            'see whether the package index is reachable, then run the same command again'
    printf '%s\n' "$key" >"$VENV_DIR/.crashcart-key"
    step_line "$started" "virtual environment ready ($VENV_DIR)"
}

bootstrap() {
    mapfile -t MISSING_PACKAGES < <(list_missing_packages)
    check_machine
    exec 9>"$CACHE_DIR/setup.lock"
    flock 9  # two stacks may be started side by side; one installs, the other waits
    if [ "${#MISSING_PACKAGES[@]}" -gt 0 ]; then install_packages; fi
    install_project
    exec 9>&-
}

run_devstack() {  # run_devstack COMMAND [ARGUMENT…]: the rest is Python
    export CRASHCART_CACHE="$CACHE_DIR"
    export PYTHONPATH="$ROOT_DIR${PYTHONPATH:+:$PYTHONPATH}"  # devstack is not part of the installed project
    exec "$VENV_DIR/bin/python" -m devstack "$@"
}
