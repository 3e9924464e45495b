package config

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const manual = "../../docs/configuration.md"

// documented is a row of the manual's tables.
type documented struct{ field, fallback string }

// readManual returns the rows of all tables of settings by the name in the environment, or in the file where there is
// none, and the names of the table of settings without effect.
func readManual(t *testing.T) (rows map[string]documented, without []string) {
	t.Helper()
	content, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	rows = map[string]documented{}
	table := ""
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			table = ""
			continue
		}
		if table == "" {
			table = line
			continue
		}
		// A bar within a cell is written \|.
		cells := strings.Split(strings.ReplaceAll(line, `\|`, "\x00"), "|")
		for i, cell := range cells {
			cells[i] = strings.Trim(strings.ReplaceAll(strings.TrimSpace(cell), "\x00", "|"), "`")
		}
		switch {
		case strings.HasPrefix(cells[1], "---"):
		case strings.HasPrefix(table, "| Environment | YAML | Default |"):
			if len(cells) != 7 || cells[4] == "" {
				t.Errorf("row %q: want five cells, and what the setting does", line)
				continue
			}
			name := cells[1]
			if name == "-" {
				name = cells[2]
			}
			if _, twice := rows[name]; twice {
				t.Errorf("%s is documented twice", name)
			}
			rows[name] = documented{cells[2], cells[3]}
		case strings.HasPrefix(table, "| Environment | Why |"):
			without = append(without, regexp.MustCompile(`[A-Z_]{2,}`).FindAllString(line, -1)...)
		}
	}
	return rows, without
}

func TestTheManualHasEverySettingWithItsDefault(t *testing.T) {
	t.Parallel()
	rows, _ := readManual(t)
	want := map[string]documented{
		envCredentials:    {"auth_registries", "-"},
		envEntryDelimiter: {"-", "a space"},
		envPartDelimiter:  {"-", defaultPartDelimiter},
		envConfigFile:     {"-", "-"},
		envAuthConfigFile: {"-", "-"},
		"credentials":     {"credentials", "-"},
		"token_services":  {"token_services", "-"},
		"clients":         {"clients", "-"},
		"tags":            {"tags", "-"},
		"pins":            {"pins", "-"},
		"warm":            {"warm", "-"},
	}
	for _, s := range settings() {
		want[s.env] = documented{s.field(), s.fallback}
		switch {
		case strings.HasSuffix(s.env, "_DIRECTORY"):
			want[s.env] = documented{s.field(), "see [Directories](#directories)"}
		case s.fallback == "":
			want[s.env] = documented{s.field(), "-"}
		}
	}
	for name, w := range want {
		if got, found := rows[name]; !found {
			t.Errorf("%s is not in %s", name, manual)
		} else if got != w {
			t.Errorf("%s is documented as %+v, want %+v", name, got, w)
		}
	}
	for name := range rows {
		if _, known := want[name]; !known {
			t.Errorf("%s documents %s, which nothing reads", manual, name)
		}
	}
}

func TestTheManualHasEverySettingWithoutEffect(t *testing.T) {
	t.Parallel()
	_, documented := readManual(t)
	covered := func(name string) bool {
		return slices.ContainsFunc(documented, func(d string) bool {
			return d == name || strings.HasSuffix(d, "_") && strings.HasPrefix(name, d)
		})
	}
	for name := range withoutEffect {
		if !covered(name) {
			t.Errorf("%s is not among the settings without effect in %s", name, manual)
		}
	}
}

// Examples rot first.
func TestTheManualsExampleFileLoads(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(content), "```yaml\n")
	example, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("no example")
	}
	m := yamlFileOf(example)
	m["run/secrets/quay"], m["etc/secrets/gcr.json"] = aFile, aFile
	cfg := mustLoad(t, m)
	if cfg.CacheMaxSize != 200<<30 || len(cfg.Credentials) != 2 || len(cfg.TokenServices) != 1 || !cfg.Registries.Match("a.example.org:443") {
		t.Errorf("the example gives %+v", cfg)
	}
}
