# tell SERVICE: has it started with these settings from now on. The file sorts behind others, so that its values win.
settings='@SETTINGS@'
tell() {
	if [ -d /run/systemd/system ]; then
		put "/etc/systemd/system/$1.service.d/zz-container-registry-proxy.conf" <<END
# From @PROXY@/setup, whose authority has the SHA-256 fingerprint
# @FINGERPRINT@
[Service]
$(for setting in $settings; do echo "Environment=\"$setting\""; done)
END
	else # a line of shell, and one that OpenRC itself takes for an assignment
		put "/etc/rc.conf.d/zz-container-registry-proxy-$1.conf" <<END
# From @PROXY@/setup, whose authority has the SHA-256 fingerprint
# @FINGERPRINT@
case \${RC_SVCNAME-} in $1) export $settings ;; esac
END
	fi
}
