#!/bin/sh
# Writes the tables of files in docs/architecture.md anew: below its heading "Files", a row for each
# source file with the first sentence of the file itself. The head of that part stays.
set -eu
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/{ /^#/s/^# \{0,1\}//p; }' "$0" && exit ;; esac
cd "$(dirname "$0")/.."
doc=docs/architecture.md

# FILE|SENTENCE: the comment's first paragraph up to the end of its first sentence.
first_sentence() {
    awk -v file="$1" '
        !/^\/\/! ?[^ ]/ { exit }
        { sub(/^\/\/! */, ""); text = text (text == "" ? "" : " ") $0 }
        END {
            if (match(text, /\. [A-Z]/)) text = substr(text, 1, RSTART)
            gsub(/\|/, "\\|", text)
            gsub(/\[`/, "`", text); gsub(/`\]/, "`", text)
            print "| `" file "` | " text " |"
        }' "$2"
}

# DIRECTORY DEPTH: a table of the directory's files, those of deeper ones by their path.
table() {
    printf '\n### `%s/`\n\n| | |\n|---|---|\n' "$1"
    find "$1" -maxdepth "$2" -name '*.rs' | LC_ALL=C sort | while read -r file; do
        first_sentence "${file#"$1"/}" "$file"
    done
}

new=$(mktemp)
trap 'rm -f "$new"' EXIT
{
    awk '{ print } /^<!-- tables -->$/ { exit }' "$doc"
    table src 1
    for dir in src/*/; do
        [ "$dir" = src/proto/ ] || table "${dir%/}" 9
    done
    table src/proto 1
    for dir in src/proto/*/; do table "${dir%/}" 9; done
    table sys/src 9
    table object_store/src 9
} > "$new"
cat "$new" > "$doc"
