package interop

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
)

// A result is what a run showed on one server.
type result struct {
	version string
	notRun  error
	checks  map[string]string // the outcome of each, by name
}

const (
	held    = "held"
	failed  = "FAILED"
	skipped = "-"
)

var results struct {
	sync.Mutex
	of map[*server]*result
}

// note lets f write to the result of s.
func (s *server) note(f func(r *result)) {
	results.Lock()
	defer results.Unlock()
	if results.of == nil {
		results.of = map[*server]*result{}
	}
	r := results.of[s]
	if r == nil {
		r = &result{checks: map[string]string{}}
		results.of[s] = r
	}
	f(r)
}

// outcome returns how a test has ended.
func outcome(t *testing.T) string {
	switch {
	case t.Failed():
		return failed
	case t.Skipped():
		return skipped
	}
	return held
}

// printResults prints a Markdown table of the checks that each server went through. Only go test -v, and go test without a
// package, show it.
func printResults(w io.Writer) {
	ran := slices.DeleteFunc(slices.Clone(servers), func(s *server) bool {
		return results.of[s] == nil || results.of[s].notRun != nil
	})
	table := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprint(table, "| check")
	for _, s := range ran {
		fmt.Fprint(table, "\t| ", s.name)
	}
	fmt.Fprint(table, "\t|\n|:--", strings.Repeat("\t|:--", len(ran)), "\t|\n")
	for _, c := range append(slices.Clone(checks), gone) {
		fmt.Fprint(table, "| ", c.name)
		for _, s := range ran {
			fmt.Fprint(table, "\t| ", results.of[s].checks[c.name])
		}
		fmt.Fprint(table, "\t|\n")
	}
	if len(ran) > 0 {
		table.Flush()
		fmt.Fprintln(w)
	}
	for _, s := range servers {
		if r := results.of[s]; r != nil {
			fmt.Fprintln(w, "-", s.summary(r))
		}
	}
}

// summary returns what the table has no room for: the version, the checks of the server's own, and why it skipped others.
func (s *server) summary(r *result) string {
	if r.notRun != nil {
		return fmt.Sprintf("%s did not run: %v", s.name, r.notRun)
	}
	count := map[string]int{}
	for _, outcome := range r.checks {
		count[outcome]++
	}
	text := fmt.Sprintf("%s %s: %d checks held, %d failed, %d skipped.",
		s.name, r.version, count[held], count[failed], count[skipped])
	var own, why []string
	for _, c := range s.checks {
		name := c.name
		if r.checks[name] == failed {
			name += " (" + failed + ")"
		}
		own = append(own, name)
	}
	if len(own) > 0 {
		text += " Checks of its own: " + strings.Join(own, "; ") + "."
	}
	for _, c := range checks {
		for _, reason := range s.unfit(c) {
			if !slices.Contains(why, reason) {
				why = append(why, reason)
			}
		}
	}
	if len(why) > 0 {
		text += " It has " + strings.Join(why, ", ") + "."
	}
	return text
}
