# What kiln leaves to the far side of an ssh session: a POSIX shell reads this and nothing else is
# installed. Two processes share it. One listens, so that a word to stop is heard at any moment; the
# other runs the steps, in the foreground, because a shell makes what it starts in the background deaf
# to SIGINT.
#
# Words come on 3, one a line. What the steps write goes to 1, reports go to 2, each behind the mark.
# When 3 ends, kiln is gone: everything is killed and removed.
exec 3<&0 </dev/null
IFS= read -r k_mark <&3 && IFS= read -r k_name <&3 && IFS= read -r k_keep <&3 || exit 90
# As POSIX would have it, bash does not say how a step died that `eval` has started.
command set +o posix 2>/dev/null
umask 022
set -f
k_say() { printf '%s %s\n' "$k_mark" "$*" >&2; }
k_refuse() { k_say "refused $1"; exit 91; }
[ -n "$HOME" ] || k_refuse 'the user has no home folder there'
k_dir=$HOME/.cache/kiln/$k_name
k_why=$(mkdir -p -- "$k_dir/work" "$k_dir/run" 2>&1) || k_refuse "cannot make a folder there: $k_why"
chmod 700 "$k_dir" && cd -P -- "$k_dir" || k_refuse "cannot use the folder $k_dir"
k_dir=$PWD
command -v tar >/dev/null || { cd /; rm -rf -- "$k_dir"; k_refuse 'there is no `tar` there'; }
: > run/pids
: > output
k_names=$(export -p | sed -n -e 's/^export \([A-Za-z_][A-Za-z0-9_]*\).*/\1/p' \
    -e 's/^declare -[a-z]*x[a-z]* \([A-Za-z_][A-Za-z0-9_]*\).*/\1/p')
k_sh=$(command -v sh)
k_env=$(command -v env)
# Where there is none (macOS), the shell's own job control gives each step a group of its own.
k_setsid=$(command -v setsid) || { k_setsid=; set -m; }

# `kill` without `-s` and `--`, which busybox does not take before a group.
# Processes of the steps: whole groups, and, where there is /proc, who has left them.
k_all() {
    k_known=' '
    while IFS= read -r k_p; do
        k_known="$k_known$k_p "
        kill -0 "-$k_p" 2>/dev/null && printf '%s\n' "-$k_p"
    done < "$k_dir/run/pids"
    [ -r /proc/self/cwd ] || return 0
    set +f
    { ls -l /proc/[0-9]*/cwd | grep -F -- "-> $k_dir/work"; grep -lF -- "$k_dir/" /proc/[0-9]*/environ; } 2>/dev/null |
        while IFS= read -r k_l; do
            case $k_l in
            *"/cwd -> $k_dir/work" | *"/cwd -> $k_dir/work/"*) k_p=${k_l%%/cwd -> *}; k_p=${k_p##*/proc/} ;;
            /proc/*/environ) k_p=${k_l#/proc/}; k_p=${k_p%/environ} ;;
            *) continue ;;
            esac
            IFS= read -r k_s < "/proc/$k_p/stat" || continue
            IFS=' '
            set -- ${k_s##*) }
            [ "$1" = Z ] && continue
            case $k_known in *" $3 "*) ;; *) printf '%s\n' "$k_p" ;; esac
        done 2>/dev/null
    set -f
}
k_send() {
    for k_p in $(k_all); do
        kill "-$1" "$k_p" 2>/dev/null
        [ "$1" = TERM ] && kill -CONT "$k_p" 2>/dev/null
    done
}
k_nap() { sleep 0.02 2>/dev/null || sleep 1; }
# Ends when nothing is left, or after so many rounds. Says what is left.
k_await() {
    k_n=0
    while k_x=$(k_all); [ -n "$k_x" ] || [ -e "$k_dir/run/busy" ]; do
        [ "$k_n" -lt "$2" ] || return 1
        k_n=$((k_n + 1))
        [ "$1" = KILL ] && k_send KILL
        k_nap
    done
}
k_listen() {
    trap : PIPE HUP INT TERM
    while IFS= read -r k_l <&3; do
        case $k_l in
        't '*) k_send TERM; { k_await TERM 999999 && k_say "quiet ${k_l#??}"; } & ;;
        'k '*) k_await KILL 400; k_say "quiet ${k_l#??}" $k_x ;;
        z) break ;;
        g) : > "$k_dir/run/busy"; printf 'g\n' ;;
        *) printf '%s\n' "$k_l" ;;
        esac
    done
    k_await KILL 400
}
k_execute() {
    # Not for more: of a signal that it heeds itself, bash does not say that it ended a step.
    trap : PIPE
    set --
    while IFS= read -r k_l; do
        case $k_l in
        g) k_step "$@"; set -- ;;
        *) set -- "$@" "$k_l" ;;
        esac
    done
}
k_step() {
    rm -f run/early
    ( k_run "$@" ) </dev/null 2>&1 3<&-
    k_code=$?
    # Behind all that the step has written.
    printf '%s\n' "$k_mark"
    [ ! -s run/early ] || k_say "early $(cat run/early)"
    rm -rf run/output
    if [ -f output ] && [ ! -h output ] && cp output run/output; then :; else : > run/output; fi
    k_say "over $k_code $(($(wc -c < run/output)))"
    cat run/output >&2
    rm -f run/busy
}
k_early() { printf '%s\n' "$1" > "$k_dir/run/early"; exit "$2"; }
# Only bytes that a shell could mistake are written as \0ooo.
k_value() {
    case $1 in
    *\\*) k_v=$(printf '%b.' "$1"); k_v=${k_v%.} ;;
    *) k_v=$1 ;;
    esac
}
k_run() {
    cd -P -- "$k_dir/work" || k_early 'directory the workspace is gone' 1
    "$k_sh" -c 'echo "$PPID"' >> "$k_dir/run/pids"
    IFS='
'
    for k_n in $k_names; do
        case " $k_keep " in *" $k_n "*) ;; *) unset "$k_n" ;; esac
    done
    unset IFS
    unset PWD OLDPWD
    k_i=$#
    k_first=
    while [ "$k_i" -gt 0 ]; do
        k_l=$1
        shift
        k_i=$((k_i - 1))
        k_value "${k_l#??}"
        case $k_l in
        'd '*)
            if ! cd -P -- "./$k_v" 2>/dev/null; then
                [ -e "./$k_v" ] && k_early 'directory not a directory' 1
                k_early 'directory there is no such directory' 1
            fi
            case $PWD/ in
            "$k_dir/work/"*) ;;
            *) k_early 'directory it leads out of the workspace' 1 ;;
            esac
            unset PWD OLDPWD ;;
        'w '*) export "$k_v=$k_dir/work" ;;
        'u '*) export "$k_v=$k_dir/output" ;;
        'e '*) export "$k_v" ;;
        'o '*) [ -n "$k_first" ] || set -- "$@" "$k_env"; k_first=env; set -- "$@" "$k_v" ;;
        'p '*) k_find "$k_v"; set -- "$@" "$k_v" ;;
        'a '*) set -- "$@" "$k_v" ;;
        esac
    done
    if [ -n "$k_setsid" ]; then exec "$k_setsid" "$@"; else exec "$@"; fi
}
# The program, looked for as the shell would: here only to say what is wrong.
k_find() {
    k_f=
    case $1 in
    */*) k_f=$1 ;;
    *)
        k_r=${PATH-/usr/bin:/bin}:
        while [ -n "$k_r" ]; do
            k_c=${k_r%%:*}
            k_c=${k_c:-.}/$1
            k_r=${k_r#*:}
            if [ -f "$k_c" ] && [ -x "$k_c" ]; then k_f=$k_c; break; fi
            [ ! -e "$k_c" ] || k_f=$k_c
        done ;;
    esac
    [ -n "$k_f" ] && [ -e "$k_f" ] || k_early 'not command not found' 127
    [ -f "$k_f" ] && [ -x "$k_f" ] || k_early 'not permission denied' 126
    case $1 in
    */*)
        k_s=
        IFS= read -r k_s 2>/dev/null < "$k_f"
        case $k_s in
        '#!'*)
            k_s=${k_s#??}
            k_s=${k_s#"${k_s%%[! ]*}"}
            [ -e "${k_s%% *}" ] || k_early 'not the interpreter that it names is missing' 126 ;;
        esac ;;
    esac
}
# A login shell may have greeted on this stream before.
printf '%s\n' "$k_mark"
k_say "ready $k_dir"
k_listen | k_execute
cd / || exit
rm -rf -- "$k_dir" 2>/dev/null || { chmod -R u+rwx "$k_dir"; rm -rf -- "$k_dir"; } 2>/dev/null
k_say gone
