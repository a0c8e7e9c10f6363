# shellcheck shell=bash disable=SC2034 # the lists of packages are for those that source this
# Shared by the scripts of this folder; sourced, not run.
#
# Rootless software that is only ever tried as root hides its bugs. So every script, when started as root, installs
# what it needs from Debian's packages, copies the checkout to an unprivileged user's home and runs itself again
# there; without root it checks that everything is there and says what is missing.

set -euo pipefail

readonly DEV_USER=gantry-dev
# What building needs: a C compiler and the static C library, a Rust toolchain, pip (it brings uv, the resolver), gpgv
# (it checks the archive's signature).
readonly BUILD_PACKAGES="gcc libc6-dev ca-certificates python3 python3-pip gpgv git tar util-linux"
readonly RUST_PACKAGES="cargo-web rustc-web"
# What the tests compare gantry with, and check its images with.
readonly TEST_PACKAGES="rust-web-clippy rustfmt-web shellcheck docker-registry skopeo umoci podman buildah uidmap bubblewrap strace iproute2 gpg gpg-agent gpgconf openssl"
readonly BENCH_PACKAGES="bubblewrap umoci skopeo gzip zstd docker-registry podman buildah uidmap"
# User-Mode Linux, and what makes a root file system for it without root.
readonly LIMITS_PACKAGES="user-mode-linux mmdebstrap uidmap fakeroot e2fsprogs"

say() { printf '%s\n' "$*" >&2; }

# have_rust: is there a cargo of at least the version in Cargo.toml?
have_rust() {
    local want have
    want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$TOP/Cargo.toml")
    have=$(rustc --version 2>/dev/null | cut -d' ' -f2) || return 1
    command -v cargo >/dev/null && [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n1)" = "$want" ]
}

# install_packages NAME...: from Debian, only what is missing.
install_packages() {
    local missing=() name
    for name in "$@"; do
        dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "Installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# as_user SCRIPT ARG...: copy the checkout to the unprivileged user and run its copy of SCRIPT; does not return.
as_user() {
    local script=$1 home work
    shift
    id -u "$DEV_USER" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$DEV_USER"
    home=$(getent passwd "$DEV_USER" | cut -d: -f6)
    work=$home/gantry
    install -d -o "$DEV_USER" -g "$DEV_USER" "$work"
    # The build directory stays from run to run; everything else is laid anew from what git would commit.
    find "$work" -mindepth 1 -maxdepth 1 ! -name target -exec rm -rf {} +
    (cd "$TOP" && git -c safe.directory='*' ls-files -z --cached --others --exclude-standard | tar --null --files-from=- -cf -) |
        tar -xf - -C "$work" --owner="$DEV_USER" --group="$DEV_USER" --no-same-owner
    chown -R "$DEV_USER:$DEV_USER" "$work"
    local keep=() name
    for name in CI NO_COLOR TERM LANG GANTRY_ROOT GANTRY_OTHER GANTRY_BIN HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy \
        SSL_CERT_FILE SSL_CERT_DIR CARGO_NET_OFFLINE PIP_INDEX_URL PIP_CERT UV_DEFAULT_INDEX UV_INDEX_URL; do
        [ -z "${!name+set}" ] || keep+=("$name=${!name}")
    done
    cd "$work"
    # A shell gives what it runs in the background an ignored SIGINT, and nohup an ignored SIGHUP: tests send both.
    exec setpriv --reuid "$DEV_USER" --regid "$DEV_USER" --init-groups --inh-caps=-all -- \
        env -i --default-signal=INT,HUP,TERM HOME="$home" USER="$DEV_USER" PATH=/usr/local/bin:/usr/bin:/bin "${keep[@]}" "$work/scripts/$script" "$@"
}

# need COMMAND PACKAGE: say what is missing when we may not install it.
need() {
    command -v "$1" >/dev/null && return 0
    say "missing: $1 (Debian package $2)"
    MISSING=1
}

# prepare SCRIPT PACKAGES ARG...: the whole of the above.
prepare() {
    local script=$1 packages=$2
    shift 2
    if [ "$(id -u)" -eq 0 ]; then
        # shellcheck disable=SC2086 # the lists are words
        install_packages $BUILD_PACKAGES $RUST_PACKAGES $packages
        as_user "$script" "$@"
    fi
    MISSING=0
    need gcc gcc
    need python3 python3
    python3 -m pip --version >/dev/null 2>&1 || command -v uv >/dev/null || { say "missing: pip or uv (Debian package python3-pip)"; MISSING=1; }
    have_rust || { say "missing: Rust, at least the rust-version of Cargo.toml (Debian packages $RUST_PACKAGES)"; MISSING=1; }
    local name
    for name in $packages; do
        dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'ok installed' && continue
        case $name in
            rust-web-clippy) need cargo-clippy "$name" ;;
            rustfmt-web) need rustfmt "$name" ;;
            bubblewrap) need bwrap "$name" ;;
            uidmap) need newuidmap "$name" ;;
            user-mode-linux) need linux "$name" ;;
            e2fsprogs) PATH=$PATH:/usr/sbin:/sbin need mke2fs "$name" ;;
            *) need "$name" "$name" ;;
        esac
    done
    if [ "$MISSING" -ne 0 ]; then
        say "Install the above, or run this script once as root: it installs them and goes on as user $DEV_USER."
        exit 1
    fi
}

# stage NAME COMMAND...: runs a command and keeps how long it took; print_stages makes a table of them.
STAGES=()
stage() {
    local name=$1 started=$SECONDS status=0
    shift
    say "==> $name"
    "$@" || status=$?
    STAGES+=("$(printf '%-42s %4d s%s' "$name" $((SECONDS - started)) "$([ $status -eq 0 ] || echo '  FAILED')")")
    return $status
}

print_stages() {
    say ""
    printf '%s\n' "${STAGES[@]}" >&2
    printf '%-42s %4d s\n' "in all" "$SECONDS" >&2
}

# The checks of everything that is not a test.
check_format() { cargo fmt --check; }
check_lints() {
    cargo clippy --locked --quiet --all-targets -- -D warnings
    # fuzz/ has a lock of its own, which has to follow ours.
    cargo update --quiet --workspace --locked --manifest-path fuzz/Cargo.toml
    # What a distribution may leave out.
    cargo check --locked --quiet --no-default-features
}
check_documents() {
    # With private items documented, links to them lead somewhere.
    RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --locked --quiet --no-deps --lib --document-private-items
}

# What is written in shell and in Python. ruff comes from the package index once, into the build directory.
readonly RUFF=0.14.0
check_scripts() {
    local tools=${CARGO_TARGET_DIR:-$TOP/target}/tools-$RUFF
    shellcheck --severity=warning --external-sources \
        .ci/run scripts/* tests/limits/bed tests/limits/rootfs tests/it/egress/internet.sh || return
    if [ ! -x "$tools/bin/ruff" ]; then
        python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$tools" "ruff==$RUFF" || return
    fi
    "$tools/bin/ruff" check --quiet --no-cache .
}

# binary [PROFILE]: the binary of this checkout, the release build unless told otherwise.
binary() { printf '%s\n' "${CARGO_TARGET_DIR:-$TOP/target}/x86_64-unknown-linux-gnu/${1:-release}/gantry"; }
