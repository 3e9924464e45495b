# needed FILE: another script has noted it.
needed() {
	for other in "$state"/*; do
		case $other in "$state/@CLIENT@-"*) continue ;; esac
		! cut -d' ' -f3 "$other" | grep -qxF "$1" || return 0
	done
	return 1
}

main() {
	[ "$(id -u)" = 0 ] || fail "root has to run this"
	set -- "$state"/@CLIENT@-*
	if [ ! -e "$1" ]; then
		tidy
		say "@CLIENT@ is not set up by a script of the proxy; nothing was changed"
		exit 0
	fi
	removed='' untrusted=''
	while read -r file; do
		[ -n "$file" ] || continue
		rm -f "$file$new"
		if needed "$file"; then
			continue
		elif theirs "$file"; then
			say "$file was changed since, and is left as it is" >&2
			continue
		fi
		rm -f "$file" # an undo that was cut off may have
		removed="$removed $file"
		case $file in */container_registry_proxy.crt) untrusted=yes ;; esac
	done <<END
$(cut -d' ' -f3 "$@" | sort -u)
END
	[ -z "$untrusted" ] || distrust
	[ -z "$removed" ] || apply
	rm "$@" # at the end, so that an undo that is cut off can run again
	tidy
	say "@CLIENT@ is as it was"
}

# tidy removes the directories that are empty, and what is noted for every client once nothing is set up.
tidy() {
	sort -r "$state/directories" 2>/dev/null | while read -r directory; do
		rmdir "$directory" 2>/dev/null || : # others may use it by now
	done
	for left in "$state"/*-*; do
		[ ! -e "$left" ] || return 0
	done
	rm -f "$state/directories" "$state/untrusted"
	rmdir "$state" 2>/dev/null || :
}

services='@SERVICES@'

apply() {
	for service in $services; do
		here "$service" || continue
		case $removed in
		*.service.d/* | */rc.conf.d/* | */config.toml* | */buildkit/* | */k3s/*) restart "$service" ;;
		*/hosts.toml*) ;; # read at each pull
		*) reload "$service" ;;
		esac
	done
}

distrust() {
	if command -v update-ca-certificates >/dev/null; then
		update-ca-certificates --fresh
	else
		update-ca-trust
	fi
	rm -f "$state/untrusted"
}

main # at the end, so that half a script does nothing
