// Writes JSON schemas for kubeconform: one file for each kind of Kubernetes, from the OpenAPI file of
// the module k8s.io/kubernetes, and one for each custom resource definition.
//
//	schemas KUBERNETES_DIR CRD_DIR OUTPUT_DIR
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

const (
	definitionsFile = "definitions.json"
	definitionsRef  = "#/definitions/"
	objectMeta      = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
)

type object = map[string]any

func main() {
	if len(os.Args) != 4 {
		fail(fmt.Errorf("usage: schemas KUBERNETES_DIR CRD_DIR OUTPUT_DIR"))
	}
	kubernetes, crds, output := os.Args[1], os.Args[2], os.Args[3]
	fail(builtIn(filepath.Join(kubernetes, "api/openapi-spec/swagger.json"), output))
	files, err := filepath.Glob(filepath.Join(crds, "*.yaml"))
	fail(err)
	if len(files) == 0 {
		fail(fmt.Errorf("%s has no custom resource definition", crds))
	}
	for _, file := range files {
		fail(custom(file, output))
	}
}

// builtIn writes all definitions to one file, and for each kind a file that refers to it.
func builtIn(path, output string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var swagger struct {
		Definitions map[string]object `json:"definitions"`
	}
	if err := json.Unmarshal(text, &swagger); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for name, definition := range swagger.Definitions {
		kinds, _ := definition["x-kubernetes-group-version-kind"].([]any)
		closed := strict(definition).(object)
		if strings.HasSuffix(name, ".Quantity") {
			closed["type"] = []string{"string", "number"}
		}
		swagger.Definitions[name] = closed
		if len(kinds) != 1 { // objects that are part of every group, such as DeleteOptions
			continue
		}
		kind := kinds[0].(object)
		reference := object{"$ref": definitionsFile + definitionsRef + name}
		err := write(output, kind["kind"].(string), kind["group"].(string), kind["version"].(string), reference)
		if err != nil {
			return err
		}
	}
	return writeFile(filepath.Join(output, definitionsFile), object{"definitions": swagger.Definitions})
}

// custom writes a file for each version of a custom resource definition.
func custom(path, output string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var crd struct {
		Spec struct {
			Group    string
			Names    struct{ Kind string }
			Versions []struct {
				Name   string
				Schema struct{ OpenAPIV3Schema object }
			}
		}
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, version := range crd.Spec.Versions {
		schema := version.Schema.OpenAPIV3Schema
		// The definition leaves the metadata open: Kubernetes checks it.
		schema["properties"].(object)["metadata"] = object{"$ref": definitionsFile + definitionsRef + objectMeta}
		if err := write(output, crd.Spec.Names.Kind, crd.Spec.Group, version.Name, strict(schema).(object)); err != nil {
			return err
		}
	}
	return nil
}

// strict refuses properties that are not declared, as the API server does for what kubectl applies, and
// allows numbers where Kubernetes does. References stay within one file, so they need no change.
func strict(schema any) any {
	switch schema := schema.(type) {
	case []any:
		for i := range schema {
			schema[i] = strict(schema[i])
		}
	case object:
		for key, value := range schema {
			schema[key] = strict(value)
		}
		_, declared := schema["properties"].(object)
		_, open := schema["additionalProperties"]
		preserve, _ := schema["x-kubernetes-preserve-unknown-fields"].(bool)
		if declared && !open && !preserve && schema["type"] == "object" {
			schema["additionalProperties"] = false
		}
		if schema["format"] == "int-or-string" {
			schema["type"] = []string{"string", "integer"}
		}
	}
	return schema
}

func write(output, kind, group, version string, schema object) error {
	if group == "" { // kubeconform takes the version for the group of v1
		group = version
	}
	name := strings.ToLower(strings.Join([]string{kind, group, version}, "_"))
	return writeFile(filepath.Join(output, name+".json"), schema)
}

func writeFile(path string, schema object) error {
	text, err := json.Marshal(schema)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "schemas:", err)
		os.Exit(1)
	}
}
