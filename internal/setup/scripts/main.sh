main() {
	[ "$(id -u)" = 0 ] || fail "root has to run this"
	for other in "$state"/@CLIENT@-*; do
		[ ! -e "$other" ] || [ "${other%.unfinished}" = "$notes" ] || fail "@CLIENT@ is set up in the other mode: curl -fsS @PROXY@/setup/@CLIENT@/undo | sudo sh, then run this again"
	done
	check
	write
	if [ -n "$changed" ]; then
		apply
		rm -f "$unfinished"
		say "@CLIENT@ now pulls through @PROXY@/"
	else
		say "@CLIENT@ is set up"
	fi
}

main # at the end, so that half a script does nothing
