notes=$state/@CLIENT@-@MODE@

# note LINE FILE
note() {
	mkdir -p "$state"
	grep -qsxF "$1" "$2" || echo "$1" >>"$2"
}

make_directory() {
	[ -n "$1" ] && [ ! -d "$1" ] || return 0
	make_directory "${1%/*}"
	mkdir "$1"
	note "$1" "$state/directories"
}

# put FILE: gives a file the content of standard input, unless it is somebody else's.
changed=
put() {
	content=$(cat)
	if [ "$(cat "$1" 2>/dev/null)" = "$content" ]; then
		! ours "$1" || note "$(noted "$1")" "$notes" # another script's too
		return
	fi
	! theirs "$1" || fail "$1 is there already, and nothing is written over it"
	make_directory "${1%/*}"
	printf '%s\n' "$content" >"$1.new"
	note "$(noted "$1.new" "$1")" "$notes"
	mv "$1.new" "$1"
	changed=yes
}
