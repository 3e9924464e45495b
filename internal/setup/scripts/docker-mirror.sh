# dockerd knows mirrors of Docker Hub alone. Other registries' images are pulled by path: @AUTHORITY@/quay.io/org/app.
file=/etc/docker/daemon.json

wanted() {
	if [ -n "$tls" ]; then
		insecure=
	else
		insecure=',
  "insecure-registries": ["@AUTHORITY@"]'
	fi
	cat <<END
{
  "registry-mirrors": ["@PROXY@"]$insecure
}
END
}

check() {
	here docker || command -v dockerd >/dev/null || fail "docker is not here; nothing was changed"
	theirs "$file" || return 0
	if grep -qF '"@PROXY@"' "$file"; then
		say "$file names the proxy already"
		exit 0
	fi
	fail "$file is there already, and nothing is written over it. Put into it, and have dockerd read it again (systemctl reload docker):
$(wanted)"
}

write() {
	trust_for_proxy "/etc/docker/certs.d/@AUTHORITY@/ca.crt"
	put "$file" <<END
$(wanted)
END
}

apply() { ! here docker || reload docker; } # containers go on
