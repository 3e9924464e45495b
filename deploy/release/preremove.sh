#!/bin/sh
# "remove" is dpkg's word for it, 0 is rpm's; an upgrade is neither.
set -e
case ${1-} in
remove | 0)
	if [ -d "${DPKG_ROOT-}/run/systemd/system" ]; then
		systemctl disable --now container-registry-proxy.socket container-registry-proxy.service || :
	fi
	;;
esac
