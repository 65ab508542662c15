#!/usr/bin/env bash
# Makes target/debian/landro_VERSION_ARCH.deb of target/release/landro, as it was built: with the unit, manual pages,
# completions, tuning and examples. Needs cargo-deb, which it builds if it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
help_if_asked packaging/deb.sh "$@"
setup build

built=$(realpath -m "${CARGO_TARGET_DIR:-target}")
[ -x "$built/release/landro" ] || die "$built/release/landro is missing; build it by scripts/release.sh"
# Of the last change, so that the same sources make the same package.
seconds=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH=$seconds
# cargo-deb finds what begins with target/release/ where it really is.
parts=$built/release/package
rm -rf "$parts"
mkdir -p "$parts"

cargo run --locked --quiet -p landro-pages -- "$parts" "$(date -u -d "@$seconds" +%Y-%m-%d)"
gzip -9n "$parts/man/"*
gzip -9n <CHANGELOG.md >"$parts/changelog.gz"
packaging/third-party.sh | gzip -9n >"$parts/third-party.gz"
manifest=$(cargo metadata --locked --no-deps --format-version 1)
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
[[ $manifest == *"\"name\":\"landro\",\"version\":\"$version\""* ]] || die "Cargo.toml does not have version $version"
maintainer=$(sed -n 's/^maintainer = "\(.*\)"$/\1/p' Cargo.toml)
cat >"$parts/changelog.debian" <<END
landro ($version-1) unstable; urgency=medium

  * Release $version. What is new is in changelog.gz beside this file.

 -- $maintainer  $(LC_ALL=C date -u -R -d "@$seconds")
END
# Unoptimised: it runs for seconds and would build for minutes more.
cargo deb --version >/dev/null 2>&1 || cargo install --locked --debug cargo-deb
cargo deb --locked --no-build --strip --quiet --output "$built/debian/"
