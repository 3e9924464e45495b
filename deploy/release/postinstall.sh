#!/bin/sh
# Nothing is started or enabled at the first installation; an upgrade restarts what runs, and pulls are finished first.
set -e
if [ -d "${DPKG_ROOT-}/run/systemd/system" ]; then
	systemctl daemon-reload || :
	case ${1-} in
	configure) [ -z "${2-}" ] || systemctl try-restart container-registry-proxy.service || : ;;
	2) systemctl try-restart container-registry-proxy.service || : ;;
	esac
fi
