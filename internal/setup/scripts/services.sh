services='@SERVICES@'

check() {
	found=
	for service in $services; do
		! here "$service" || found="$found $service"
	done
	[ -n "$found" ] || fail "this machine has no service $services, of systemd or OpenRC; nothing was changed"
	find_trust
}

write() {
	trust
	for service in $found; do tell "$service"; done
}

apply() {
	for service in $found; do restart "$service"; done
}
