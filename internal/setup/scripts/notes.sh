set -eu
umask 022

# What a script makes is noted there, a checksum and a path each, so that its undo finds it again.
state=/var/lib/container-registry-proxy-setup

say() { echo "container-registry-proxy: $*"; }
fail() {
	say "$*" >&2
	exit 1
}

command -v cksum >/dev/null || fail "cksum is not here, which tells files of ours from others"

# How content is noted, and how a FILE is. Some cksum adds a name to what it says.
sum() { cksum | cut -d' ' -f1,2; }
noted() { echo "$(sum <"$1") $1"; }

# ours FILE: a script of this proxy made it, and nobody has changed it since.
ours() { cat "$state"/* 2>/dev/null | grep -qxF "$(noted "$1")"; }

# theirs FILE: it is there, and not ours.
theirs() { [ -e "$1" ] && ! ours "$1"; }

# The name of a file until all of it is written.
new=.container-registry-proxy.new
