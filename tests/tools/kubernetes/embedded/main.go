// Compares what a rendered chart carries with the files that it comes from: the groups of the
// PrometheusRule with those of alerts.yml, each dashboard with its ConfigMap.
//
//	helm template … | embedded ALERTS_YML DASHBOARD.json...
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"sigs.k8s.io/yaml"
)

type manifest struct {
	Kind string
	Data map[string]string
	Spec struct{ Groups []any }
}

func main() {
	if len(os.Args) < 3 {
		fail(errors.New("usage: embedded ALERTS_YML DASHBOARD.json..."))
	}
	manifests, err := rendered(os.Stdin)
	fail(err)
	fail(errors.Join(rules(manifests, os.Args[1]), dashboards(manifests, os.Args[2:])))
}

func rendered(input io.Reader) ([]manifest, error) {
	text, err := io.ReadAll(input)
	if err != nil {
		return nil, err
	}
	var manifests []manifest
	for _, document := range strings.Split("\n"+string(text), "\n---\n") {
		var one manifest
		if err := yaml.Unmarshal([]byte(document), &one); err != nil {
			return nil, err
		}
		manifests = append(manifests, one)
	}
	return manifests, nil
}

func rules(manifests []manifest, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var want struct{ Groups []any }
	if err := yaml.Unmarshal(text, &want); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, one := range manifests {
		if one.Kind == "PrometheusRule" {
			if len(want.Groups) > 0 && reflect.DeepEqual(one.Spec.Groups, want.Groups) {
				return nil
			}
			return fmt.Errorf("the groups of the PrometheusRule are not those of %s", path)
		}
	}
	return errors.New("there is no PrometheusRule")
}

// dashboards fails unless the ConfigMaps have these files, byte for byte, and no others.
func dashboards(manifests []manifest, paths []string) error {
	found := map[string]string{}
	for _, one := range manifests {
		if one.Kind == "ConfigMap" {
			for name, text := range one.Data {
				found[name] = text
			}
		}
	}
	var problems []error
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name := filepath.Base(path)
		if found[name] != string(text) {
			problems = append(problems, fmt.Errorf("no ConfigMap has the content of %s", path))
		}
		delete(found, name)
	}
	for name := range found {
		problems = append(problems, fmt.Errorf("a ConfigMap has the unexpected file %s", name))
	}
	return errors.Join(problems...)
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "embedded:", err)
		os.Exit(1)
	}
}
