#!/usr/bin/env bash
# Prints the notices and licences of everything that is linked into landro, as their terms demand of who passes the
# binary on: from the sources that cargo has, each text once, below the names of all that it is the licence of; then
# those of Rust's library, and of musl where that is linked in.
#   packaging/third-party.sh [TARGET]
# TARGET: what the binary is built for, as rustc calls it; by itself this host.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
help_if_asked packaging/third-party.sh "$@"
find_rust

target=${1:-$(rustc -vV | sed -n 's/^host: //p')}
sources=${CARGO_HOME:-$HOME/.cargo}/registry/src
of_rust=$(rustc --print sysroot)/share/doc/rust/COPYRIGHT-library.html
[ -s "$of_rust" ] || die "$of_rust is missing: the notices of Rust's library, which is linked in. It comes with rustup's \
rustc"
of_musl=''
if [[ $target == *-musl ]]; then
    # Rust brings musl's objects, and not its text.
    of_musl=/usr/share/doc/musl/copyright
    [ -s "$of_musl" ] || die "$of_musl is missing: musl's notices, which is linked in. Get it by: apt-get install musl"
fi
# In a variable first: what a pipe is read from may fail unseen.
listed=$(cargo tree --locked -p landro -e normal --target "$target" --prefix none --format '{p} | {l}') ||
    die "cargo does not tell what landro is made of"
linked=$(grep -v "($PWD" <<<"$listed" | sed 's/ (\*)$//; s/ (proc-macro)//; s/ | / /' | LC_ALL=C sort -u)
count=$(wc -l <<<"$linked")
[ "$count" -ge 50 ] || die "only $count crates are linked into landro for $target? cargo tree has left most of them out"

declare -A crates=() texts=()
while read -r name version licence; do
    version=${version#v}
    dir=$(compgen -G "$sources/*/$name-$version" | head -n 1) || die "$name $version has no sources below $sources"
    found=0
    # Of C libraries within a crate, too, and of what was taken over from elsewhere.
    while IFS= read -r file; do
        found=1
        text=$(tr -d '\r' <"$file")
        sum=$(sha256sum <<<"$text" | cut -c 1-64)
        texts[$sum]=$text
        [[ ${crates[$sum]:-} == *"$name $version ("* ]] || crates[$sum]+="$name $version ($licence)"$'\n'
    done < <(find "$dir" -type f \( -iname 'LICEN[CS]E*' -o -iname 'COPYING*' -o -iname 'COPYRIGHT*' -o -iname 'NOTICE*' \) \
        ! -name '*.rs' ! -path '*/tests/*' | LC_ALL=C sort)
    # Its sources are all there is: who wrote it, and under which licence, is in its manifest.
    [ "$found" = 1 ] || crates[none]+="$name $version ($licence)"$'\n'
done <<<"$linked"
[ ${#texts[@]} -ge 20 ] || die "only ${#texts[@]} licences were found below $sources"

# part NAMES TEXT
part() {
    printf '%s\n%s\n%s\n\n' "$(printf '=%.0s' {1..80})" "$1" "$2"
}
for sum in $(printf '%s\n' "${!crates[@]}" | LC_ALL=C sort); do
    part "${crates[$sum]}" \
        "${texts[$sum]:-These have no text of their licence with them; their authors are named on crates.io.}"
done
[ -z "$of_musl" ] || part $'musl\n' "$(<"$of_musl")"
part "$(rustc --version): its library"$'\n' \
    "$(sed 's/<[^>]*>//g; s/&lt;/</g; s/&gt;/>/g; s/&quot;/"/g; s/&#39;/'"'"'/g; s/&amp;/\&/g' "$of_rust" | cat -s)"
