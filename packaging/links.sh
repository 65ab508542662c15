#!/usr/bin/env bash
# Prints a document as the package has it: README.md, guide.md and tuning.md are side by side there, a link to anything
# else of the sources is its words alone, and web addresses and places within the document stay links.
#   packaging/links.sh FILE.md
set -euo pipefail
self=$(realpath "$0")
. "$(dirname "$self")/../scripts/setup.sh"
help_if_asked "$self" "$@"
[ $# = 1 ] || die "usage: packaging/links.sh FILE.md"

# First those that stay are marked, then the rest goes, then the marks.
mark=$'\001'
sed -E "s,\]\(((https?:|#)[^)]*)\),]$mark\1),g
    s,\]\((\.\./|docs/)?((README|guide|tuning)\.md(#[^)]*)?)\),]$mark\2),g
    s,\[([^]]*)\]\([^)]*\),\1,g
    s,\]$mark,](,g" "$1"
