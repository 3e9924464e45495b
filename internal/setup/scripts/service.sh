# here SERVICE: this machine has it.
here() {
	if [ -d /run/systemd/system ]; then
		systemctl cat "$1.service" >/dev/null 2>&1
	else # OpenRC
		command -v rc-service >/dev/null && [ -e "/etc/init.d/$1" ]
	fi
}

# restart SERVICE, if it runs.
restart() {
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload
		systemctl try-restart "$1.service"
	elif command -v rc-service >/dev/null; then
		rc-service --ifstarted "$1" restart
	fi || fail "$1 did not restart: its log says why"
}

# reload SERVICE: has it read its configuration again, if it runs.
reload() {
	if [ -d /run/systemd/system ]; then
		systemctl try-reload-or-restart "$1.service"
	else
		rc-service --ifstarted "$1" reload
	fi || fail "$1 did not reload: its log says why"
}
