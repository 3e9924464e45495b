package rows

import (
	"fmt"
	"time"
)

// All are the rows of the table, in its order.
func All(scale Scale) []Row {
	var rows []Row
	for _, conns := range scale.HitConns {
		rows = append(rows, hit(scale, conns))
	}
	rows = append(rows, mirror(scale))
	for _, kind := range []string{"config", "digest", "tag"} {
		rows = append(rows, small(scale, kind))
	}
	rows = append(rows, setUp(scale, false), setUp(scale, true), tunnel(scale), cold(scale), throttled(scale), herd(scale))
	for _, nodes := range scale.Nodes {
		rows = append(rows, image(scale, nodes, true), image(scale, nodes, false))
	}
	rows = append(rows, idle(scale, intercepted), idle(scale, tunnelled), slow(scale), objects(scale))
	if scale.Growth {
		rows = append(rows, growth(scale)...)
	}
	return rows
}

// with adds distribution to columns where the scale has it measured.
func with(scale Scale, columns ...string) []string {
	if scale.Distribution {
		return append(columns, Distributed)
	}
	return columns
}

func hit(scale Scale, conns int) Row {
	columns := []string{Ours, Relay, Nginx, Limit, LimitSums}
	if scale.Distribution {
		columns = append(columns, Distributed, Direct)
	}
	rate := 2.0
	if conns == 1 {
		rate = 1.35 // the limit itself has 1.7: see docs/performance.md
	}
	return Row{
		Name: fmt.Sprintf("hit-%d", conns), Title: fmt.Sprintf("hit, 64 MiB blob, CONNECT + TLS, %d connections", conns), Columns: columns,
		Claims: []Claim{
			{What: "CPU per GiB", Metric: cpuPerGiB, Over: Relay, AtMost: 0.45},
			{What: "CPU per GiB", Metric: cpuPerGiB, Over: Nginx, AtMost: 0.75},
			{What: "MB/s", Metric: mbPerSecond, Over: Relay, AtLeast: rate},
			{What: "CPU per GiB", Metric: cpuPerGiB, Over: Limit, AtMost: 1.25},
			{What: "CPU of the chunk sums", Metric: cpuPerGiB, Of: LimitSums, Over: Limit, AtMost: 1.05},
		},
		Prepare: hits(conns, blobSize, scale.HitBytes, intercepted, columns),
	}
}

func mirror(scale Scale) Row {
	columns := []string{Ours, Sendfile, Distributed}
	return Row{
		Name: "mirror", Title: "hit, 64 MiB blob, plain mirror mode, 2 connections", Columns: columns,
		Claims: []Claim{
			{What: "CPU per GiB", Metric: cpuPerGiB, Over: Sendfile, AtMost: 1.3},
			{What: "CPU per GiB", Metric: cpuPerGiB, Over: Distributed, AtMost: 1},
		},
		Prepare: hits(2, blobSize, scale.HitBytes, mirrored, columns),
	}
}

func small(scale Scale, kind string) Row {
	titles := map[string]string{"config": "2 KiB config", "digest": "manifest by digest", "tag": "manifest by tag"}
	columns := with(scale, Ours, Relay, Nginx, LimitHTTP)
	return Row{
		Name: "small-" + kind, Title: "hit, " + titles[kind] + ", keep-alive, 4 connections", Columns: columns,
		Claims: []Claim{
			{What: "CPU per request", Metric: cpuPerRequest, Over: Relay, AtMost: 0.9},
			{What: "CPU per request", Metric: cpuPerRequest, Over: Nginx, AtMost: 1.4},
			{What: "CPU per request, the aim", Metric: cpuPerRequest, Over: Nginx, AtMost: 1.15},
			{What: "CPU per request", Metric: cpuPerRequest, Over: LimitHTTP, AtMost: 1.4},
			{What: "p99", Metric: p99, Over: Nginx, AtMost: 2},
		},
		Prepare: smallHits(kind, 4, scale.Small, columns),
	}
}

func setUp(scale Scale, hybrid bool) Row {
	columns := with(scale, Ours, Relay, NginxECDSA, LimitHTTP)
	row := Row{
		Name: "setup", Title: "CONNECT + TLS + one small GET, 4 at a time", Columns: columns,
		Claims: []Claim{
			{What: "CPU per connection", Metric: cpuPerConn, Over: Relay, AtMost: 0.6},
			{What: "CPU per connection", Metric: cpuPerConn, Over: NginxECDSA, AtMost: 0.95},
			{What: "CPU per connection", Metric: cpuPerConn, Over: LimitHTTP, AtMost: 1.6},
		},
		Prepare: setUps(4, scale.SetUps, hybrid, columns),
	}
	if hybrid {
		row.Name, row.Title = "setup-hybrid", row.Title+", the client offers X25519MLKEM768 too"
	}
	return row
}

func tunnel(scale Scale) Row {
	columns := []string{Ours, Relay}
	return Row{
		Name: "tunnel", Title: "tunnel of a host that is not intercepted, 2 connections", Columns: columns,
		Claims:  []Claim{{What: "CPU per GiB", Metric: cpuPerGiB, Over: Relay, AtMost: 0.5}},
		Prepare: hits(2, blobSize, scale.HitBytes, tunnelled, nil),
	}
}

func cold(scale Scale) Row {
	return Row{
		Name: "cold", Title: "cold, 256 MiB, fast origin", Columns: with(scale, Direct, Ours, Relay),
		Claims: []Claim{
			{What: "overhead over direct", Metric: took, Over: Relay, AtMost: 0.75},
			{What: "CPU per GiB, SHA-256 on", Metric: cpuPerGiB, Over: Relay, AtMost: 0.85},
			{What: "first byte behind direct, ms", Metric: firstByte, Minus: Direct, AtMost: 5},
			{What: "time against direct", Metric: took, Over: Direct, AtMost: 2.1},
		},
		Prepare: colds(scale.Cold, 0),
	}
}

func throttled(scale Scale) Row {
	return Row{
		Name: "throttled", Title: fmt.Sprintf("cold, %d MiB, origin limited to 20 MB/s a connection", scale.Throttled>>20),
		Columns: []string{Direct, Ours, Relay}, Rounds: scale.Long,
		Claims:  []Claim{{What: "time against direct", Metric: took, Over: Direct, AtMost: 0.33}},
		Prepare: colds(scale.Throttled, 20e6),
	}
}

func herd(scale Scale) Row {
	return Row{
		Name: "herd", Title: fmt.Sprintf("herd: %d clients, one cold 64 MiB blob, origin 50 MB/s a connection", scale.Herd),
		Columns: []string{Ours, Relay}, Rounds: scale.Long,
		Claims: []Claim{
			{What: "whole downloads", Metric: wholeGets, AtMost: 1},
			{What: "bytes from upstream / size", Metric: upstreamShare, AtMost: 1.01},
			{What: "followers' first byte behind the leader's, s", Metric: firstLag, AtMost: 0.1},
			{What: "last finisher / leader", Metric: lastOverLeader, AtMost: 1.1},
			{What: "last finisher", Metric: took, Over: Relay, AtMost: 0.6},
		},
		Prepare: herds(scale.Herd, 50e6),
	}
}

func image(scale Scale, nodes int, warm bool) Row {
	row := Row{Columns: []string{Ours, Relay, Nginx}, Prepare: images(nodes, warm)}
	if scale.Distribution && nodes <= 4 {
		row.Columns = append(row.Columns, Distributed)
	}
	if nodes > 4 {
		row.Rounds = scale.Long
	}
	if warm {
		row.Name, row.Title = fmt.Sprintf("image-warm-%d", nodes), fmt.Sprintf("image of 12 layers, 128 MiB, 3 at a time, %d nodes, warm", nodes)
		row.Claims = []Claim{
			{What: "p50 of a node's pull", Metric: p50, Over: Relay, AtMost: 0.5},
			{What: "CPU per GiB", Metric: cpuPerGiB, Over: Relay, AtMost: 0.5},
			{What: "bytes from upstream", Metric: upstreamShare, Zero: true},
		}
		return row
	}
	row.Name, row.Title = fmt.Sprintf("image-cold-%d", nodes), fmt.Sprintf("image of 12 layers, 128 MiB, 3 at a time, %d nodes, cold", nodes)
	row.Claims = []Claim{
		{What: "p50 of a node's pull", Metric: p50, Over: Relay, AtMost: 0.7},
		{What: "bytes from upstream / size", Metric: upstreamShare, AtMost: 1.01},
		{What: "first manifest, ms", Metric: firstByte, AtMost: 50},
	}
	return row
}

func idle(scale Scale, way string) Row {
	title := map[string]string{intercepted: "idle intercepted connections", tunnelled: "idle tunnels"}[way]
	rest := scale.Rest
	if way == tunnelled {
		rest = min(rest, 40*time.Second) // PROXY_CONNECT_READ_TIMEOUT ends one that is idle for longer
	}
	return Row{
		Name: "idle-" + way, Title: fmt.Sprintf("memory: %d %s, at rest for %s", scale.Idle, title, rest), Columns: []string{Ours, Relay}, Rounds: 1,
		Claims: []Claim{
			{What: "KiB each", Metric: kibEach, AtMost: 32},
			{What: "dropped", Metric: dropped, Zero: true},
		},
		Prepare: idles(scale.Idle, rest, way),
	}
}

func slow(scale Scale) Row {
	return Row{
		Name: "slow", Title: fmt.Sprintf("memory: %d readers of different blobs at 256 KiB/s", scale.Slow), Columns: []string{Ours, Relay}, Rounds: 1,
		Claims:  []Claim{{What: "KiB each", Metric: kibEach, AtMost: 100}},
		Prepare: slows(scale.Slow),
	}
}

func objects(scale Scale) Row {
	return Row{
		Name: "objects", Title: fmt.Sprintf("%d blobs of 4 KiB, 32 connections", scale.Objects), Columns: []string{Ours, Nginx, LimitHTTP}, Rounds: 1,
		Claims: []Claim{
			{What: "fills per second", Metric: fillRate, Over: Nginx, AtLeast: 3},
			{What: "p99 of a hit", Metric: p99, Over: Nginx, AtMost: 1},
			{What: "p99 of a hit", Metric: p99, Over: LimitHTTP, AtMost: 2},
			{What: "memory, bytes a blob", Metric: bytesEach, AtMost: 300},
			{What: "restart to first hit, s", Metric: restart, AtMost: 0.3},
			{What: "bytes from upstream after it", Metric: upstreamShare, Zero: true},
			{What: "CPU of a fill, last sixteenth / first", Metric: fillGrowth, AtMost: 1.25},
		},
		Prepare: manyObjects(scale),
	}
}
