// A BuildKit frontend that tries what a frontend must not be able to do. The build argument MODE says what. What it found
// is printed by a step of the build, in the words of e2e/hostile/image/hunt.sh.
package main

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/gateway/grpcclient"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/appcontext"
)

const base = "registry.buildpools.test:5000/library/attacker:stable"

var canary = regexp.MustCompile(`canary-[a-z-]*[0-9a-f]{16}`)

type hunt struct {
	client client.Client
	report []string
	tried  int
}

func main() {
	if err := grpcclient.RunFromEnvironment(appcontext.Context(), build); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func build(ctx context.Context, c client.Client) (*client.Result, error) {
	h := &hunt{client: c}
	modes := map[string]func(context.Context){
		"proc": h.proc, "sources": h.sources, "secrets": h.secrets,
		"entitlements": h.entitlements, "containers": h.containers, "cache-import": h.cacheImport, "api": h.api,
	}
	mode := c.BuildOpts().Opts["build-arg:MODE"]
	run, ok := modes[mode]
	if !ok {
		return nil, fmt.Errorf("MODE is %q", mode)
	}
	run(ctx)
	h.say("TRIED %d", h.tried)
	text := base64.StdEncoding.EncodeToString([]byte(strings.Join(h.report, "\n")))
	// Never from the cache: the report is of this build.
	step := llb.Image(base).Run(
		llb.Args([]string{"sh", "-c", "echo " + text + " | base64 -d; echo"}), llb.IgnoreCache).Root()
	return h.solve(ctx, step, client.SolveRequest{Evaluate: true})
}

func (h *hunt) say(format string, values ...any) {
	h.report = append(h.report, fmt.Sprintf(format, values...))
}

// scan reports the canaries of a text and whether there were any.
func (h *hunt) scan(where string, content []byte) bool {
	found := canary.FindAllString(string(content), -1)
	for _, one := range found {
		h.say("LEAK %s %s", where, one)
	}
	// Written so that this program does not find itself.
	if strings.Contains(string(content), "eyJhbGci"+"OiJ") {
		h.say("LEAK %s token", where)
		return true
	}
	return len(found) > 0
}

func (h *hunt) solve(ctx context.Context, state llb.State, request client.SolveRequest) (*client.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	definition, err := state.Marshal(ctx, llb.LinuxAmd64)
	if err != nil {
		return nil, err
	}
	request.Definition = definition.ToPB()
	return h.client.Solve(ctx, request)
}

// proc looks around where the frontend runs.
func (h *hunt) proc(ctx context.Context) {
	h.scan("own environment", []byte(strings.Join(os.Environ(), "\n")))
	own := fmt.Sprint(os.Getpid())
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, process := range processes {
		h.tried++
		if filepath.Base(process) == own {
			continue
		}
		for _, file := range []string{"environ", "cmdline"} {
			if content, err := os.ReadFile(filepath.Join(process, file)); err == nil {
				h.say("SHARED process %s", process)
				h.scan(process, content)
			}
		}
		if target, err := os.Readlink(process + "/exe"); err == nil && strings.Contains(target, "buildkitd") {
			if file, err := os.OpenFile(process+"/exe", os.O_WRONLY, 0); err == nil {
				h.say("ESCAPED %s can be written", target)
				file.Close()
			}
		}
		if entries, err := os.ReadDir(process + "/root/home/user"); err == nil && len(entries) > 0 {
			h.say("ESCAPED to the daemon's files through %s", process)
		}
	}
	for _, path := range []string{"/home/user", "/run/buildkit", "/var/run/secrets", "/etc/buildpools-credentials"} {
		h.tried++
		if _, err := os.Stat(path); err == nil {
			h.say("ESCAPED %s is here", path)
		}
	}
}

// api calls the Kubernetes API over the way that the runner needs.
func (h *hunt) api(ctx context.Context) {
	namespace := h.client.BuildOpts().Opts["build-arg:NAMESPACE"]
	insecure := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	api := http.Client{Timeout: 10 * time.Second, Transport: insecure}
	for _, path := range []string{
		"/version", "/api/v1/secrets", "/api/v1/nodes", "/metrics", "/configz", "/api/v1/namespaces/" + namespace + "/secrets",
		"/api/v1/namespaces/" + namespace + "/pods", "/api/v1/namespaces/" + namespace + "/serviceaccounts",
		"/apis/buildpools.dev/v1alpha1/namespaces/" + namespace + "/buildjobs",
	} {
		response, err := api.Get("https://kubernetes.default.svc" + path)
		if err != nil {
			// Then this shows nothing, and the test must not pass.
			h.say("SHARED nothing-tried %v", err)
			continue
		}
		content, _ := io.ReadAll(io.LimitReader(response.Body, 1<<20))
		response.Body.Close()
		h.tried++
		h.scan(path, content)
		// What anonymous may see is published.
		if refused := response.StatusCode == http.StatusForbidden; refused == (path == "/version") {
			h.say("ESCAPED %s: %s", path, response.Status)
		}
	}
}

// sources asks the client for directories and the daemon for its disk.
func (h *hunt) sources(ctx context.Context) {
	names := []string{
		"", ".", "/", "..", "etc", "/etc", "/etc/buildpools-credentials", "/etc/buildpools", "/var/run/secrets", "/proc/self",
		"home", "runner", "secrets", "../../../../etc", "credentials", "context/../../etc", "dockerfile/../../..",
	}
	for _, name := range names {
		h.tried++
		h.look(ctx, "local "+name, llb.Local(name))
	}
	// What the client does give must end at its own files.
	for _, name := range []string{"context", "dockerfile"} {
		h.tried++
		state := llb.Local(name, llb.FollowPaths([]string{"../../../../etc/passwd", "/etc/passwd", "/proc/self/environ"}),
			llb.IncludePatterns([]string{"../**", "/etc/**", "**"}), llb.SharedKeyHint("another"))
		h.files(ctx, "local "+name, state)
	}
	for _, state := range map[string]llb.State{
		"git of the disk":   llb.Git("file:///home/user/.local/share/buildkit", "main"),
		"layout of a store": llb.OCILayout("x@sha256:" + strings.Repeat("0", 64)),
		"metadata service":  llb.HTTP("http://169.254.169.254/latest/meta-data/iam/security-credentials/node"),
		"another tenant":    llb.Image("registry.buildpools.test:5000/bob/private:1"),
	} {
		h.tried++
		h.look(ctx, "source", state)
	}
}

func (h *hunt) look(ctx context.Context, what string, state llb.State) {
	if files := h.files(ctx, what, state); files != "" {
		h.say("ESCAPED %q gave %s", what, files)
	}
}

// files reads what a source has, and scans it.
func (h *hunt) files(ctx context.Context, what string, state llb.State) string {
	result, err := h.solve(ctx, state, client.SolveRequest{Evaluate: true})
	if err != nil {
		return ""
	}
	reference, err := result.SingleRef()
	if err != nil || reference == nil {
		return ""
	}
	var found []string
	for _, directory := range []string{"/", "/etc", "/home/user", "/proc/self"} {
		entries, err := reference.ReadDir(ctx, client.ReadDirRequest{Path: directory})
		if err != nil {
			continue
		}
		for _, entry := range entries {
			path := filepath.Join(directory, entry.Path)
			found = append(found, path)
			if content, err := reference.ReadFile(ctx, client.ReadRequest{Filename: path}); err == nil {
				h.scan(what+" "+path, content)
			}
		}
	}
	// Paths out of the result.
	for _, path := range []string{"../../../../etc/passwd", "/../../../../proc/self/environ", "../../../../home/user/.local/share/buildkit/history.db"} {
		h.tried++
		if content, err := reference.ReadFile(ctx, client.ReadRequest{Filename: path}); err == nil {
			if strings.Contains(string(content), "user:x:1000") || strings.Contains(path, "history.db") {
				h.say("ESCAPED %s: %s", what, path)
			}
			h.scan(path, content)
		}
	}
	return strings.Join(found, " ")
}

func (h *hunt) secrets(ctx context.Context) {
	ids := []string{
		"registry-login", "token", "GIT_AUTH_TOKEN", "GIT_AUTH_HEADER", "config.json", ".dockerconfigjson", "canary", "default", "",
		"../config.json", "/etc/buildpools-credentials/registry-login/config.json", "/var/run/secrets/kubernetes.io/serviceaccount/token",
	}
	for _, id := range ids {
		h.tried++
		step := llb.Image(base).Run(llb.Args([]string{"sh", "-c", "cat /s && attack scan /s && true " + id}),
			llb.AddSecret("/s", llb.SecretID(id)), llb.IgnoreCache).Root()
		if _, err := h.solve(ctx, step, client.SolveRequest{Evaluate: true}); err == nil {
			h.say("ESCAPED secret %q", id)
		}
	}
	for _, id := range []string{"default", "canary", "/run/buildkit/buildkitd.sock"} {
		h.tried++
		step := llb.Image(base).Run(llb.Args([]string{"sh", "-c", "attack dial $SSH_AUTH_SOCK; true " + id}),
			llb.AddSSHSocket(llb.SSHID(id)), llb.IgnoreCache).Root()
		if _, err := h.solve(ctx, step, client.SolveRequest{Evaluate: true}); err == nil {
			h.say("ESCAPED agent %q", id)
		}
	}
}

func (h *hunt) entitlements(ctx context.Context) {
	options := map[string]llb.RunOption{
		"insecure":     llb.Security(llb.SecurityModeInsecure),
		"host network": llb.Network(llb.NetModeHost),
		"device":       llb.AddCDIDevice(llb.CDIDeviceName("vendor.example/gpu=all")),
	}
	for name, option := range options {
		h.tried++
		step := llb.Image(base).Run(llb.Args([]string{"sh", "-c", "cat /proc/self/status; true " + name}), option, llb.IgnoreCache).Root()
		if _, err := h.solve(ctx, step, client.SolveRequest{Evaluate: true}); err == nil {
			h.say("ESCAPED %s", name)
		}
	}
}

// containers are what a frontend starts beside the build.
func (h *hunt) containers(ctx context.Context) {
	result, err := h.solve(ctx, llb.Image(base), client.SolveRequest{Evaluate: true})
	if err != nil {
		h.say("no base: %v", err)
		return
	}
	reference, err := result.SingleRef()
	if err != nil {
		return
	}
	root := client.Mount{Dest: "/", MountType: pb.MountType_BIND, Ref: reference}
	for _, network := range []pb.NetMode{pb.NetMode_UNSET, pb.NetMode_HOST} {
		for _, security := range []pb.SecurityMode{pb.SecurityMode_SANDBOX, pb.SecurityMode_INSECURE} {
			for _, extra := range []*client.Mount{
				nil,
				{Dest: "/s", MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "registry-login"}},
				{Dest: "/b", MountType: pb.MountType_BIND, Selector: "../../../../../../home/user", Ref: reference},
			} {
				h.tried++
				mounts := []client.Mount{root}
				if extra != nil {
					mounts = append(mounts, *extra)
				}
				h.start(ctx, client.NewContainerRequest{Mounts: mounts, NetMode: network}, security, extra)
			}
		}
	}
}

func (h *hunt) start(ctx context.Context, request client.NewContainerRequest, security pb.SecurityMode, extra *client.Mount) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	container, err := h.client.NewContainer(ctx, request)
	if err != nil {
		return
	}
	defer container.Release(context.WithoutCancel(ctx))
	output := &buffer{}
	process, err := container.Start(ctx, client.StartRequest{
		Args:         []string{"sh", "-c", "ls -d /b/.local /b/home/user 2>/dev/null; attack scan /s; true"},
		SecurityMode: security, Stdout: output, Stderr: output,
	})
	if err != nil || process.Wait() != nil {
		return
	}
	h.scan("container", output.bytes)
	text := string(output.bytes)
	if request.NetMode == pb.NetMode_HOST || security == pb.SecurityMode_INSECURE {
		h.say("ESCAPED container with %s and %s", request.NetMode, security)
	}
	if extra != nil && (extra.MountType == pb.MountType_SECRET || strings.Contains(text, "/b/")) {
		h.say("ESCAPED container with %s: %s", extra.Dest, text)
	}
}

type buffer struct{ bytes []byte }

func (b *buffer) Write(p []byte) (int, error) { b.bytes = append(b.bytes, p...); return len(p), nil }
func (b *buffer) Close() error                { return nil }

// cacheImport asks for caches that are not this pool's.
func (h *hunt) cacheImport(ctx context.Context) {
	imports := []client.CacheOptionsEntry{
		{Type: "registry", Attrs: map[string]string{"ref": "registry.buildpools.test:5000/bob/cache:1"}},
		{Type: "registry", Attrs: map[string]string{"ref": "registry.buildpools.test:5000/library/poisoned-cache:stable"}},
		{Type: "local", Attrs: map[string]string{"src": "/home/user", "digest": "sha256:" + strings.Repeat("0", 64)}},
		{Type: "gha", Attrs: map[string]string{"url": "http://169.254.169.254/", "token": "x"}},
		{Type: "s3", Attrs: map[string]string{"endpoint_url": "http://169.254.169.254/", "bucket": "x", "region": "x"}},
	}
	for _, one := range imports {
		h.tried++
		step := llb.Image(base).Run(llb.Args([]string{"sh", "-c", "echo real > /result"})).Root()
		result, err := h.solve(ctx, step, client.SolveRequest{Evaluate: true, CacheImports: []client.CacheOptionsEntry{one}})
		if err != nil {
			continue
		}
		reference, err := result.SingleRef()
		if err != nil {
			continue
		}
		content, err := reference.ReadFile(ctx, client.ReadRequest{Filename: "/result"})
		if err == nil && strings.TrimSpace(string(content)) != "real" {
			h.say("ESCAPED: a poisoned cache made the result %q", content)
		}
		h.scan("cache", content)
	}
}
