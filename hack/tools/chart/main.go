// Chart checks a Helm chart: helm's own lint, the schema of its values, and that what it
// renders are objects of the Kubernetes API without an unknown field. Prints a line for each
// case and a summary in the form of cargo's tests; ends with 1 where one fails.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

type values = map[string]any

// objects are what a chart renders, by "Kind/name".
type objects map[string]any

func render(dir string, given values) (objects, error) {
	chart, err := loader.LoadDir(dir)
	if err != nil {
		return nil, err
	}
	options := chartutil.ReleaseOptions{Name: "node", Namespace: "kube-system", IsInstall: true}
	all, err := chartutil.ToRenderValues(chart, given, options, nil)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		return nil, err
	}
	found := objects{}
	for file, text := range files {
		for _, document := range strings.Split(text, "\n---") {
			if strings.TrimSpace(strings.TrimPrefix(document, "---")) == "" {
				continue
			}
			if err := found.add(document); err != nil {
				return nil, fmt.Errorf("%s: %w\n%s", file, err, document)
			}
		}
	}
	return found, nil
}

func (o objects) add(document string) error {
	var head struct {
		APIVersion, Kind string
		Metadata         struct{ Name string }
	}
	if err := yaml.Unmarshal([]byte(document), &head); err != nil {
		return err
	}
	var object any
	switch head.APIVersion + " " + head.Kind {
	case "apps/v1 DaemonSet":
		object = &appsv1.DaemonSet{}
	case "v1 ConfigMap":
		object = &corev1.ConfigMap{}
	case "node.k8s.io/v1 RuntimeClass":
		object = &nodev1.RuntimeClass{}
	default:
		return fmt.Errorf("no object of kind %q is expected", head.Kind)
	}
	plain, err := yaml.YAMLToJSONStrict([]byte(document))
	if err != nil {
		return err
	}
	// As the API server reads with strict field validation: upper and lower case count.
	unknown, err := json.UnmarshalStrict(plain, object)
	if err := errors.Join(append(unknown, err)...); err != nil {
		return err
	}
	o[head.Kind+"/"+head.Metadata.Name] = object
	return nil
}

func (o objects) names() string {
	names := make([]string, 0, len(o))
	for name := range o {
		names = append(names, name)
	}
	sort.Strings(names)
	return strings.Join(names, " ")
}

var usual = values{"image": values{"repository": "registry.example/bulkhead"}}

func linted(dir string) error {
	result := lint.All(dir, usual, "kube-system", true)
	for _, message := range result.Messages {
		if message.Severity >= support.WarningSev {
			return fmt.Errorf("%s", message)
		}
	}
	return nil
}

func imageIsRequired(dir string) error {
	if _, err := render(dir, values{}); err == nil || !strings.Contains(err.Error(), "repository") {
		return fmt.Errorf("without image.repository: %v", err)
	}
	return nil
}

func unknownValueIsRefused(dir string) error {
	given := values{"image": usual["image"], "runtimeClases": []any{}}
	if _, err := render(dir, given); err == nil || !strings.Contains(err.Error(), "runtimeClases") {
		return fmt.Errorf("a misspelt value: %v", err)
	}
	return nil
}

func defaults(dir string) error {
	found, err := render(dir, usual)
	if err != nil {
		return err
	}
	if names := found.names(); names != "ConfigMap/node-installer DaemonSet/node-installer RuntimeClass/bulkhead" {
		return fmt.Errorf("renders %s", names)
	}
	script, err := os.ReadFile(filepath.Join(dir, "files/install.sh"))
	if err != nil {
		return err
	}
	data := found["ConfigMap/node-installer"].(*corev1.ConfigMap).Data
	if data["install.sh"] != string(script) || len(data) != 1 {
		return fmt.Errorf("the ConfigMap is not install.sh alone: %v", data)
	}
	pod := found["DaemonSet/node-installer"].(*appsv1.DaemonSet).Spec.Template.Spec
	if image := pod.InitContainers[0].Image; image != "registry.example/bulkhead:0.1.0" {
		return fmt.Errorf("image %s", image)
	}
	if !pod.HostPID {
		return fmt.Errorf("the service cannot be managed without the node's pids")
	}
	for _, variable := range pod.InitContainers[0].Env {
		if !strings.Contains(string(script), "$"+variable.Name) || variable.Value == "" {
			return fmt.Errorf("install.sh does not use %s, or it is empty", variable.Name)
		}
	}
	if handler := found["RuntimeClass/bulkhead"].(*nodev1.RuntimeClass).Handler; handler != "bulkhead" {
		return fmt.Errorf("handler %s", handler)
	}
	return nil
}

func everyValue(dir string) error {
	found, err := render(dir, values{
		"image":            values{"repository": "registry.example/bulkhead", "tag": "edge"},
		"imagePullSecrets": []any{values{"name": "pull"}},
		"config":           values{"log_level": "debug", "runtime": values{"max_log_line": 4096}},
		"exampleNetwork":   true,
		"manageService":    false,
		"runtimeClasses":   []any{values{"name": "a", "handler": "b"}, values{"name": "c", "handler": "d"}},
	})
	if err != nil {
		return err
	}
	if _, ok := found["RuntimeClass/c"]; !ok || len(found) != 4 {
		return fmt.Errorf("renders %s", found.names())
	}
	text := found["ConfigMap/node-installer"].(*corev1.ConfigMap).Data["config.yaml"]
	if text != "log_level: debug\nruntime:\n  max_log_line: 4096" && text != "log_level: debug\nruntime:\n  max_log_line: 4096\n" {
		return fmt.Errorf("config.yaml is %q", text)
	}
	pod := found["DaemonSet/node-installer"].(*appsv1.DaemonSet).Spec.Template.Spec
	if pod.HostPID || pod.ImagePullSecrets[0].Name != "pull" || pod.Containers[0].Image != "registry.example/bulkhead:edge" {
		return fmt.Errorf("a value is not taken over: %+v", pod)
	}
	return nil
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: chart DIRECTORY")
		os.Exit(2)
	}
	cases := []struct {
		name string
		run  func(string) error
	}{
		{"lint", linted},
		{"image_is_required", imageIsRequired},
		{"unknown_value_is_refused", unknownValueIsRefused},
		{"defaults", defaults},
		{"every_value", everyValue},
	}
	failed := 0
	for _, one := range cases {
		if err := one.run(os.Args[1]); err != nil {
			fmt.Printf("test chart::%s ... FAILED\n    %v\n", one.name, err)
			failed++
		} else {
			fmt.Printf("test chart::%s ... ok\n", one.name)
		}
	}
	word := map[bool]string{true: "ok", false: "FAILED"}[failed == 0]
	fmt.Printf("test result: %s. %d passed; %d failed;\n", word, len(cases)-failed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}
