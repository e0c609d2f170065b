#!/bin/sh
# One check of the site: style, links, spelling or size.
set -eu
ok() { printf '\033[32mok\033[0m  %s\n' "$1"; sleep 0.3; }
bad() { printf '\033[31mbad\033[0m %s\n' "$1"; exit 1; }

case "$1" in
style)
    for page in pages/*.txt; do
        grep -q '^title: ' "$page" || bad "$page has no title"
        ok "$page has a title"
    done
    ;;
links)
    for link in $(sed -n 's/.*href="\([^"]*\)".*/\1/p' public/*.html); do
        [ -f "public/$link" ] || bad "$link leads nowhere"
        ok "$link"
    done
    ;;
spelling)
    for word in lighthouse keepers electricity; do
        grep -qi "$word" public/*.html || bad "$word is missing"
        ok "$word"
    done
    ;;
size)
    for page in public/*.html; do
        [ "$(wc -c < "$page")" -lt 4096 ] || bad "$page is too large"
        ok "$page"
    done
    ;;
*)
    echo "unknown check: $1" >&2
    exit 2
    ;;
esac
