# dockerd knows mirrors of Docker Hub alone. Other registries' images are pulled by path: @AUTHORITY@/quay.io/org/app.
file=/etc/docker/daemon.json

check() {
	here docker || command -v dockerd >/dev/null || fail "docker is not here; nothing was changed"
	theirs "$file" || return 0
	if grep -qF '"@PROXY@"' "$file"; then
		say "$file names the proxy already"
		exit 0
	fi
	fail "$file is there already, and nothing is written over it. Put into it, and have dockerd read it again (systemctl reload docker):
  \"registry-mirrors\": [\"@PROXY@\"], \"insecure-registries\": [\"@AUTHORITY@\"]"
}

write() {
	put "$file" <<'END'
{
  "registry-mirrors": ["@PROXY@"],
  "insecure-registries": ["@AUTHORITY@"]
}
END
}

apply() { ! here docker || reload docker; } # containers go on
