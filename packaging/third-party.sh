#!/usr/bin/env bash
# Prints the notices and licences of everything that is linked into landro, as their terms demand of who passes the
# binary on: from the sources that cargo has, each text once, below the names of all that it is the licence of.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
help_if_asked packaging/third-party.sh "$@"
find_rust

sources=${CARGO_HOME:-$HOME/.cargo}/registry/src
declare -A crates=() texts=()
while read -r name version licence; do
    version=${version#v}
    dir=$(compgen -G "$sources/*/$name-$version" | head -n 1) || die "$name $version has no sources below $sources"
    found=0
    # Of C libraries within a crate, too.
    while IFS= read -r file; do
        found=1
        text=$(tr -d '\r' <"$file")
        sum=$(sha256sum <<<"$text" | cut -c 1-64)
        texts[$sum]=$text
        [[ ${crates[$sum]:-} == *"$name $version"* ]] || crates[$sum]+="$name $version ($licence)"$'\n'
    done < <(find "$dir" "$dir/deps/boringssl" "$dir/c_src/mimalloc" -maxdepth 1 -type f \
        \( -iname 'LICEN[CS]E*' -o -iname 'COPYING*' -o -iname 'NOTICE*' \) 2>/dev/null | LC_ALL=C sort)
    # Its sources are all there is: who wrote it, and under which licence, is in its manifest.
    [ "$found" = 1 ] || crates[none]+="$name $version ($licence)"$'\n'
done < <(cargo tree --locked -p landro -e normal --target "$(rustc -vV | sed -n 's/^host: //p')" --prefix none \
    --format '{p} | {l}' | grep -v "($PWD" | sed 's/ (\*)$//; s/ (proc-macro)//; s/ | / /' | LC_ALL=C sort -u)

for sum in $(printf '%s\n' "${!crates[@]}" | LC_ALL=C sort); do
    printf '%s\n%s\n%s\n\n' "$(printf '=%.0s' {1..80})" "${crates[$sum]}" \
        "${texts[$sum]:-These have no text of their licence with them; their authors are named on crates.io.}"
done
