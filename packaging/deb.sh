#!/usr/bin/env bash
# Makes target/debian/landro_VERSION_ARCH.deb of target/release/landro, as it was built: with the unit, manual pages,
# completions, tuning and examples. Needs cargo-deb, which it builds if it is missing. It refuses a binary that is not of
# these sources, by its version and its help.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
help_if_asked packaging/deb.sh "$@"
setup build

built=$(realpath -m "${CARGO_TARGET_DIR:-target}")
[ -x "$built/release/landro" ] || die "$built/release/landro is missing; build it by scripts/release.sh"
find_cargo_deb
# Of the last change, so that the same sources make the same package.
seconds=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH=$seconds
# cargo-deb finds what begins with target/release/ where it really is.
parts=$built/release/package
rm -rf "$parts"
mkdir -p "$parts"

cargo run --locked --quiet -p landro-pages -- "$parts" "$(date -u -d "@$seconds" +%Y-%m-%d)"
words() { tr -s ' \n' ' '; }
for help in "$parts/help/"*; do
    # landro-cp: of `landro cp`. Lines are as long as the terminal has it.
    command=${help##*/landro}
    told=$("$built/release/landro" ${command:+"${command#-}"} --help | words) || told=''
    [ "$told" = "$(words <"$help")" ] ||
        die "$built/release/landro is not of these sources: it says something else with landro ${command#-} --help. \
Build it anew by scripts/release.sh"
done
gzip -9n "$parts/man/"*
gzip -9n <CHANGELOG.md >"$parts/changelog.gz"
packaging/third-party.sh | gzip -9n >"$parts/third-party.gz"
manifest=$(cargo metadata --locked --no-deps --format-version 1)
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
[[ $manifest == *"\"name\":\"landro\",\"version\":\"$version\""* ]] || die "Cargo.toml does not have version $version"
[ "$("$built/release/landro" --version)" = "landro $version" ] ||
    die "$built/release/landro is $("$built/release/landro" --version), not $version; build it anew by scripts/release.sh"
maintainer=$(sed -n 's/^maintainer = "\(.*\)"$/\1/p' Cargo.toml)
cat >"$parts/changelog.debian" <<END
landro ($version-1) unstable; urgency=medium

  * Release $version. What is new is in changelog.gz beside this file.

 -- $maintainer  $(LC_ALL=C date -u -R -d "@$seconds")
END
# What they refer to and the package does not have keeps its words, and is no link.
for file in README.md docs/guide.md docs/tuning.md; do
    packaging/links.sh "$file" >"$parts/$(basename "$file")"
done
cargo deb --locked --no-build --strip --quiet --output "$built/debian/"
