package registry_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"container-registry-proxy/internal/registrytest"
)

const handling = "../../docs/request-handling.md"

// answers are what a registry may answer a request for a manifest with, by their names in the document.
func answers() map[string]func(*registrytest.Faults) {
	status := func(code int) func(*registrytest.Faults) {
		return func(f *registrytest.Faults) { f.Registry.Status = code }
	}
	return map[string]func(*registrytest.Faults){
		"the same": func(*registrytest.Faults) {}, "another one": nil, // of a tag: it has moved
		"401": status(401), "403": status(403), "404": status(404), "429": status(429), "500": status(500), "502": status(502), "503": status(503),
		"a web page": func(f *registrytest.Faults) { f.Registry.HTML = true },
		"a reset":    func(f *registrytest.Faults) { f.Registry.Down = true },
		"nothing":    func(f *registrytest.Faults) { f.Registry.Hang = true },
	}
}

// Every cell of the table in the document, which says what a client gets for what its registry answers.
func TestTheStatusTable(t *testing.T) {
	t.Parallel()
	columns, rows := readTable(t)
	all := answers()
	if len(rows) != len(all) || len(columns) != 12 {
		t.Fatalf("%s: %d answers and %d columns, want %d and 12", handling, len(rows), len(columns), len(all))
	}
	for name, cells := range rows {
		answer, known := all[name]
		if !known || len(cells) != len(columns) {
			t.Errorf("%s: row %q is unknown, or has %d cells", handling, name, len(cells))
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			together(len(columns), func(i int) {
				if got := fill(t, columns[i], name, answer); got != cells[i] {
					t.Errorf("%s, upstream answers %s: the client gets %s, and the document says %s", strings.Join(columns[i], " "), name, got, cells[i])
				}
			})
		})
	}
}

// readTable reads the document's table: its columns, such as [tag cached open], and its rows by their first cell.
func readTable(t *testing.T) (columns [][]string, rows map[string][]string) {
	t.Helper()
	content, err := os.ReadFile(handling)
	if err != nil {
		t.Fatal(err)
	}
	rows = map[string][]string{}
	for line := range strings.Lines(string(content)) {
		var cells []string
		for _, cell := range strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		switch {
		case cells[0] == "Upstream answers":
			for _, cell := range cells[1:] {
				columns = append(columns, strings.Split(cell, ", "))
			}
		case columns == nil || len(cells) < 2 || strings.HasPrefix(cells[0], "-"):
			if columns != nil && len(cells) < 2 && len(rows) > 0 {
				return columns, rows
			}
		default:
			rows[cells[0]] = cells[1:]
		}
	}
	return columns, rows
}

// fill finds out what one cell of the table has to say: status and outcome. What is cached was pulled twenty minutes
// before.
func fill(t *testing.T, column []string, name string, answer func(*registrytest.Faults)) string {
	t.Helper()
	by, cached, class := column[0], column[1] == "cached", column[2]
	cfg, p, headers := registrytest.Config{}, plan{}, []string{acceptAll}
	if name == "nothing" {
		p.giveUp, p.readTimeout = 200*time.Millisecond, 500*time.Millisecond
	}
	if class != "open" {
		cfg.Login, cfg.Users = registrytest.Basic, map[string]string{"user": "secret"}
	}
	if class == "own" {
		headers = append(headers, basicOf("user", "secret"))
	}
	r := registrytest.New(t, cfg)
	if p.world = r.World; class == "central" {
		p.central = []string{r.Host() + " user secret"}
	}
	img := r.PushImage(repo, "1", registrytest.Bytes(90, 100))
	h := p.build(t)
	defer h.stop()
	if cached {
		h.get(r, manifest(repo, "1"), headers...).is(t, 200, img.Manifest)
		h.pass(20 * time.Minute)
	}
	if answer == nil {
		r.PushImage(repo, "1", registrytest.Bytes(91, 100))
	} else {
		r.Set(answer)
	}
	ref := "1"
	if by == "digest" {
		ref = string(img.Digest)
	}
	a := h.get(r, manifest(repo, ref), headers...)
	if a.err != nil {
		return "cut"
	}
	return strings.TrimSpace(fmt.Sprint(a.status, " ", strings.ToLower(a.header.Get("X-Cache"))))
}
