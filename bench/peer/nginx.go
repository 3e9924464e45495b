package peer

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"

	"container-registry-proxy/bench/load"
)

// Nginx is nginx with the caching layer of the originals. One process tree has all of its doors, so what one of them
// costs is measured while the others rest.
type Nginx struct {
	*Process
	Relay    load.Target // TLS with the RSA leaf behind the stream relay: as the originals are used
	TLS      load.Target // the same without the relay
	TLSECDSA load.Target // with an ECDSA leaf
	Plain    load.Target // plain HTTP, with sendfile
	Tunnel   load.Target // the stream relay to the origin's plain listener: a host that is not intercepted
}

// The configuration has the originals' directives, and their defaults where they have none: workers, slots, a cache
// without temporary directory, no sendfile, HTTP/1.0 to upstream, one request at a time for what is not cached. Where the
// originals relay the bytes of CONNECT between two connections of the same nginx (a module that Debian does not have),
// the stream module does, with the same buffer of 16 KiB.
const nginxConfig = `
load_module STREAM;
daemon off;
USER
worker_processes auto;
error_log DIR/nginx-error.log warn;
pid DIR/nginx.pid;
events { worker_connections 1024; }

stream {
	proxy_buffer_size 16k;
	proxy_timeout 300s;
	server { listen 127.0.0.1:RELAY; proxy_pass 127.0.0.1:SECURE; }
	server { listen 127.0.0.1:TUNNEL; proxy_pass ORIGIN_PLAIN; }
}

http {
	default_type application/octet-stream;
	client_body_temp_path DIR/body;
	proxy_temp_path DIR/proxy;
	fastcgi_temp_path DIR/fastcgi;
	uwsgi_temp_path DIR/uwsgi;
	scgi_temp_path DIR/scgi;
	log_format tweaked escape=json '{"access_time":"$time_local","upstream_cache_status":"$upstream_cache_status","method":"$request_method","uri":"$uri","status":"$status","bytes_sent":"$body_bytes_sent","upstream_response_time":"$upstream_response_time","host":"$host","proxy_host":"$proxy_host","upstream":"$upstream_addr"}';
	access_log DIR/nginx-access.log tweaked;
	keepalive_timeout 300s;
	gzip off;
	proxy_cache_path DIR/cache levels=1:2 max_size=8g inactive=60d keys_zone=cache:10m use_temp_path=off;

	server {
		listen 127.0.0.1:SECURE ssl;
		ssl_certificate RSA.pem;
		ssl_certificate_key RSA.key;
		include DIR/layer.conf;
	}
	server {
		listen 127.0.0.1:MODERN ssl;
		ssl_certificate ECDSA.pem;
		ssl_certificate_key ECDSA.key;
		include DIR/layer.conf;
	}
	server {
		listen 127.0.0.1:PLAIN;
		sendfile on;
		tcp_nopush on;
		include DIR/layer.conf;
	}
}
`

// nginxLayer is the caching layer: blobs by their digest, manifests by their path, tags for an hour.
const nginxLayer = `
add_header X-Docker-Registry-Proxy-Cache-Upstream-Status "$upstream_cache_status";
chunked_transfer_encoding on;
proxy_read_timeout 900;
proxy_cache cache;
proxy_cache_lock on;
proxy_cache_lock_timeout 880s;
proxy_cache_valid 200 206 60d;
proxy_force_ranges on;
proxy_ignore_client_abort on;
proxy_cache_revalidate on;
proxy_hide_header Set-Cookie;
proxy_ignore_headers X-Accel-Expires Expires Cache-Control Set-Cookie;
proxy_set_header Authorization "$http_authorization";
proxy_ssl_server_name on;
proxy_ssl_name localhost;
proxy_ssl_verify on;
proxy_ssl_verify_depth 2;
proxy_ssl_trusted_certificate AUTHORITY;
set $target ORIGIN;
set $cache_key $uri;
location ~ ^/v2/(.*)/blobs/sha256:(.*) {
	set $cache_key $2;
	proxy_cache_key $cache_key;
	proxy_pass https://$target;
}
location ~ ^/v2/(.*)/manifests/sha256:(.*) {
	proxy_cache_key $cache_key;
	proxy_pass https://$target;
}
location ~ ^/v2/(.*)/manifests/ {
	proxy_cache_valid 1h;
	proxy_cache_use_stale error timeout http_500 http_502 http_504 http_429;
	proxy_cache_key $cache_key;
	proxy_pass https://$target;
}
location / {
	proxy_cache off;
	proxy_pass https://$target;
}
`

// StartNginx starts nginx in front of the origin.
func StartNginx(ctx context.Context, tools Tools, dir string, certs *Certificates, origin *Origin) (*Nginx, error) {
	ports, err := freePorts(5)
	if err != nil {
		return nil, err
	}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // so that the workers may write where the benchmark put the cache
	}
	fill := strings.NewReplacer(
		"STREAM", tools.NginxStream, "USER", user, "DIR", dir, "RELAY", ports[0], "SECURE", ports[1], "MODERN", ports[2], "PLAIN", ports[3], "TUNNEL", ports[4],
		"ECDSA.pem", certs.ECDSA, "ECDSA.key", certs.ECDSAKey, "RSA.pem", certs.RSA, "RSA.key", certs.RSAKey,
		"AUTHORITY", certs.Authority, "ORIGIN_PLAIN", origin.Plain.Addr, "ORIGIN", origin.Direct.Addr,
	)
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, []byte(fill.Replace(nginxConfig)), 0o644); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "layer.conf"), []byte(fill.Replace(nginxLayer)), 0o644); err != nil {
		return nil, err
	}
	door := func(i int, secure bool) load.Target {
		t := load.Target{Addr: net.JoinHostPort("127.0.0.1", ports[i]), Host: origin.Direct.Host}
		if secure {
			t.TLS = client(certs.Roots)
		}
		return t
	}
	n := &Nginx{Relay: door(0, true), TLS: door(1, true), TLSECDSA: door(2, true), Plain: door(3, false), Tunnel: door(4, false)}
	n.Process, err = Start(ctx, Command{
		Name: "nginx", Path: tools.Nginx, Args: []string{"-p", dir, "-e", filepath.Join(dir, "nginx-error.log"), "-c", config}, Dir: dir, Cache: filepath.Join(dir, "cache"),
		Ready: listens(n.Relay.Addr, n.TLS.Addr, n.TLSECDSA.Addr, n.Plain.Addr, n.Tunnel.Addr),
	})
	return n, err
}
