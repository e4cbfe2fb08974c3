// Cridiff compares proto/cri/v1/api.proto with the descriptors of the published
// k8s.io/cri-api module: every message, field, number, type, label, enum value, method and
// the options that change behaviour. Wire-identical means that it prints nothing and ends
// with 0.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	published "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: cridiff FILE.proto")
		os.Exit(2)
	}
	ours, err := compile(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "cridiff:", err)
		os.Exit(2)
	}
	theirs := published.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto
	left, right := facts(ours), facts(theirs)
	differences := diff(left, right)
	for _, line := range differences {
		fmt.Println(line)
	}
	if len(differences) > 0 {
		fmt.Printf("%d differences from k8s.io/cri-api\n", len(differences))
		os.Exit(1)
	}
	fmt.Printf("identical: %d facts about %d messages and %d services\n", len(left), ours.Messages().Len(), ours.Services().Len())
}

func compile(path string) (protoreflect.FileDescriptor, error) {
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{filepath.Dir(path)}}),
	}
	files, err := compiler.Compile(context.Background(), filepath.Base(path))
	if err != nil {
		return nil, err
	}
	return files[0], nil
}

// facts says everything that matters on the wire, one line a fact, keyed by what it is about.
func facts(file protoreflect.FileDescriptor) map[string]string {
	out := map[string]string{"package": string(file.Package())}
	messages(protodesc.ToFileDescriptorProto(file).GetMessageType(), string(file.Package()), out)
	enums(protodesc.ToFileDescriptorProto(file).GetEnumType(), string(file.Package()), out)
	for _, service := range protodesc.ToFileDescriptorProto(file).GetService() {
		for _, method := range service.GetMethod() {
			out["rpc "+service.GetName()+"."+method.GetName()] = fmt.Sprintf("%s -> %s, client stream %t, server stream %t, deprecated %t",
				method.GetInputType(), method.GetOutputType(), method.GetClientStreaming(), method.GetServerStreaming(), method.GetOptions().GetDeprecated())
		}
	}
	return out
}

func messages(list []*descriptorpb.DescriptorProto, prefix string, out map[string]string) {
	for _, message := range list {
		name := prefix + "." + message.GetName()
		out["message "+name] = fmt.Sprintf("map entry %t", message.GetOptions().GetMapEntry())
		for _, field := range message.GetField() {
			oneof := ""
			if field.OneofIndex != nil {
				oneof = message.GetOneofDecl()[field.GetOneofIndex()].GetName()
			}
			out["field "+name+"."+field.GetName()] = fmt.Sprintf("number %d, %s, %s, %s, json %s, oneof %q, optional %t, deprecated %t, redacted %t",
				field.GetNumber(), field.GetLabel(), field.GetType(), field.GetTypeName(), field.GetJsonName(), oneof,
				field.GetProto3Optional(), field.GetOptions().GetDeprecated(), field.GetOptions().GetDebugRedact())
		}
		out["reserved "+name] = fmt.Sprint(message.GetReservedRange(), message.GetReservedName())
		messages(message.GetNestedType(), name, out)
		enums(message.GetEnumType(), name, out)
	}
}

func enums(list []*descriptorpb.EnumDescriptorProto, prefix string, out map[string]string) {
	for _, enum := range list {
		for _, value := range enum.GetValue() {
			out["value "+prefix+"."+enum.GetName()+"."+value.GetName()] = fmt.Sprint(value.GetNumber())
		}
		out["enum "+prefix+"."+enum.GetName()] = fmt.Sprintf("alias %t", enum.GetOptions().GetAllowAlias())
	}
}

func diff(ours, theirs map[string]string) []string {
	var out []string
	for key, value := range theirs {
		if mine, there := ours[key]; !there {
			out = append(out, "missing: "+key+" ("+value+")")
		} else if mine != value {
			out = append(out, "differs: "+key+"\n  published: "+value+"\n  here:      "+mine)
		}
	}
	for key := range ours {
		if _, there := theirs[key]; !there {
			out = append(out, "not published: "+key)
		}
	}
	sort.Strings(out)
	return out
}
