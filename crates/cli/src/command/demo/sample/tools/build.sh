#!/bin/sh
# Renders pages/*.txt to public/*.html.
set -eu
mkdir -p public
for page in pages/*.txt; do
    name=$(basename "$page" .txt)
    title=$(sed -n 's/^title: //p' "$page")
    {
        echo "<!doctype html><title>$title</title><h1>$title</h1>"
        sed -e '/^title: /d' -e '/^See also: /d' -e 's|.*|<p>&</p>|' "$page"
        for other in $(sed -n 's/^See also: //p' "$page"); do
            echo "<p><a href=\"$other.html\">$other</a></p>"
        done
    } > "public/$name.html"
    printf '\033[36mrendered\033[0m public/%s.html  %s bytes\n' "$name" "$(wc -c < "public/$name.html" | tr -d ' ')"
    sleep 0.4
done
