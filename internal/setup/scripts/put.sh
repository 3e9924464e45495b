notes=$state/@CLIENT@-@MODE@

# Whatever instant a run is cut off at, the next one ends its work: this is there until all is done.
unfinished=$notes.unfinished resumed=
[ ! -e "$unfinished" ] || resumed=yes
begin() { mkdir -p "$state" && : >"$unfinished"; }

# note LINE FILE
note() { grep -qsxF "$1" "$2" || echo "$1" >>"$2"; }

make_directory() {
	[ -n "$1" ] && [ ! -d "$1" ] || return 0
	make_directory "${1%/*}"
	note "$1" "$state/directories"
	mkdir "$1"
}

# put FILE: gives a file the content of standard input, unless it is somebody else's.
changed=$resumed
put() {
	content=$(cat)
	if [ "$(cat "$1" 2>/dev/null)" = "$content" ]; then
		! ours "$1" || note "$(noted "$1")" "$notes" # another script's too
		return
	fi
	! theirs "$1" || fail "$1 is there already, and nothing is written over it"
	begin
	make_directory "${1%/*}"
	note "$(printf '%s\n' "$content" | sum) $1" "$notes"
	printf '%s\n' "$content" >"$1$new"
	mv "$1$new" "$1"
	changed=yes
}
