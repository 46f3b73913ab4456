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
	"syscall"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/gateway/grpcclient"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/appcontext"
)

const base = "registry.buildpools.test:5000/library/attacker:stable"

// What the test has put into the daemon's container.
const daemonFile = "/tmp/daemon-canary"

var canary = regexp.MustCompile(`canary-[a-z-]*[0-9a-f]{16}`)

type hunt struct {
	client client.Client
	report []string
	tried  int
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "definition" {
		definition, err := result(os.Args[2]).Marshal(context.Background(), llb.LinuxAmd64)
		if err == nil {
			err = llb.WriteTo(definition, os.Stdout)
		}
		if err != nil {
			panic(err)
		}
		return
	}
	if err := grpcclient.RunFromEnvironment(appcontext.Context(), build); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func build(ctx context.Context, c client.Client) (*client.Result, error) {
	h := &hunt{client: c}
	modes := map[string]func(context.Context){
		"proc": h.proc, "sources": h.sources, "secrets": h.secrets,
		"entitlements": h.entitlements, "containers": h.containers, "cache-import": h.cacheImport, "cache": h.cache, "api": h.api,
	}
	mode := c.BuildOpts().Opts["build-arg:MODE"]
	run, ok := modes[mode]
	if !ok {
		return nil, fmt.Errorf("MODE is %q", mode)
	}
	if err := h.permitted(ctx); err != nil {
		// Then nothing that is refused shows anything.
		h.say("SHARED nothing-tried %v", err)
	}
	run(ctx)
	h.say("TRIED %d", h.tried)
	text := base64.StdEncoding.EncodeToString([]byte(strings.Join(h.report, "\n")))
	// Never from the cache: the report is of this build.
	step := llb.Image(base).Run(
		llb.Args([]string{"sh", "-c", "echo " + text + " | base64 -d; echo"}), llb.IgnoreCache).Root()
	return h.solve(ctx, step, client.SolveRequest{Evaluate: true})
}

// permitted is a step as everybody may have it.
func (h *hunt) permitted(ctx context.Context) error {
	step := llb.Image(base).Run(llb.Args([]string{"true"}), llb.IgnoreCache).Root()
	_, err := h.solve(ctx, step, client.SolveRequest{Evaluate: true})
	return err
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
			// To open a running program for writing fails whatever the rights are.
			if syscall.Access(process+"/exe", 2) == nil {
				h.say("ESCAPED %s can be written", target)
			}
		}
		for _, way := range []string{"/root", "/cwd", "/cwd/../../../../../.."} {
			if content, err := os.ReadFile(process + way + daemonFile); err == nil {
				h.say("ESCAPED to the daemon's files through %s%s", process, way)
				h.scan(process, content)
			}
		}
	}
	for _, path := range []string{
		daemonFile, "/home/user", "/var/lib/buildkit", "/run/buildkit", "/run/buildpools", "/var/run/secrets", "/etc/buildpools-credentials",
	} {
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
	for what, state := range map[string]llb.State{
		"layout of a store":         llb.OCILayout("x@sha256:" + strings.Repeat("0", 64)),
		"metadata service":          llb.HTTP("http://169.254.169.254/latest/meta-data/iam/security-credentials/node"),
		"another tenant":            llb.Image("registry.buildpools.test:5000/bob/private:1"),
		"option as revision":        git("https://"+links, "--upload-pack=touch /tmp/evil-upload"),
		"option as host":            git("ssh://-oProxyCommand=touch$IFS$9evil-ssh/x.git", "main"),
		"link as directory":         git("https://"+links, "main:above"),
		"link to proc as directory": git("https://"+links, "main:proc/../../../tmp"),
	} {
		h.tried++
		h.look(ctx, what, state)
	}
	// These end at the repository's root: what is there may be seen, and nothing beside it.
	for _, directory := range []string{"../../../../../../tmp", "/../../../../tmp", "x/../../../../../tmp"} {
		h.tried++
		h.files(ctx, "above "+directory, git("https://"+links, "main:"+directory))
	}
}

// A repository whose links lead out of it.
const links = "git.buildpools.test/hostile/links.git"

// git is a git source with nothing of it checked here.
func git(url, revision string) llb.State {
	_, place, _ := strings.Cut(url, "://")
	source := llb.NewSource("git://"+place+"#"+revision, map[string]string{pb.AttrFullRemoteURL: url}, llb.Constraints{})
	return llb.NewState(source.Output())
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
	for _, directory := range []string{"/", "/etc", "/tmp", "/home/user", "/proc/self"} {
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
	for _, path := range []string{
		"../../../../../.." + daemonFile, "/../../../../../.." + daemonFile, "above/daemon-canary", "proc" + daemonFile,
		"/../../../../proc/self/environ", "../../../../home/user/.local/share/buildkit/history.db",
	} {
		h.tried++
		if content, err := reference.ReadFile(ctx, client.ReadRequest{Filename: path}); err == nil {
			h.say("ESCAPED %s: %s", what, path)
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
		h.say("SHARED nothing-tried %v", err)
		return
	}
	reference, err := result.SingleRef()
	if err != nil {
		h.say("SHARED nothing-tried %v", err)
		return
	}
	root := client.Mount{Dest: "/", MountType: pb.MountType_BIND, Ref: reference}
	for _, network := range []pb.NetMode{pb.NetMode_UNSET, pb.NetMode_HOST} {
		for _, security := range []pb.SecurityMode{pb.SecurityMode_SANDBOX, pb.SecurityMode_INSECURE} {
			for _, extra := range []*client.Mount{
				nil,
				{Dest: "/s", MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "registry-login"}},
				{Dest: "/b", MountType: pb.MountType_BIND, Selector: "../../../../../..", Ref: reference},
			} {
				h.tried++
				mounts := []client.Mount{root}
				if extra != nil {
					mounts = append(mounts, *extra)
				}
				err := h.start(ctx, client.NewContainerRequest{Mounts: mounts, NetMode: network}, security, extra)
				plain := network == pb.NetMode_UNSET && security == pb.SecurityMode_SANDBOX && extra == nil
				if plain && err != nil {
					h.say("SHARED nothing-tried %v", err)
				}
			}
		}
	}
}

func (h *hunt) start(ctx context.Context, request client.NewContainerRequest, security pb.SecurityMode, extra *client.Mount) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	container, err := h.client.NewContainer(ctx, request)
	if err != nil {
		return err
	}
	defer container.Release(context.WithoutCancel(ctx))
	output := &buffer{}
	process, err := container.Start(ctx, client.StartRequest{
		Args:         []string{"sh", "-c", ". /lib/hunt.sh; daemon_file /b / /proc/1/root; attack scan /s; echo started"},
		SecurityMode: security, Stdout: output, Stderr: output,
	})
	if err != nil {
		return err
	}
	if err := process.Wait(); err != nil {
		return err
	}
	h.scan("container", output.bytes)
	text := string(output.bytes)
	if !strings.Contains(text, "started") {
		return fmt.Errorf("the container printed %q", text)
	}
	if request.NetMode == pb.NetMode_HOST || security == pb.SecurityMode_INSECURE {
		h.say("ESCAPED container with %s and %s", request.NetMode, security)
	}
	if strings.Contains(text, "ESCAPED") || extra != nil && extra.MountType == pb.MountType_SECRET {
		h.say("ESCAPED container: %s", text)
	}
	return nil
}

type buffer struct{ bytes []byte }

func (b *buffer) Write(p []byte) (int, error) { b.bytes = append(b.bytes, p...); return len(p), nil }
func (b *buffer) Close() error                { return nil }

// result is what a poisoned cache is about. With the argument `definition` this program prints it for buildctl.
func result(text string) llb.State {
	// On something: BuildKit exports no cache of what has no inputs.
	return llb.Scratch().File(llb.Mkdir("/base", 0o755)).File(llb.Mkfile("/result", 0o644, []byte(text)))
}

// cacheImport asks for caches that are not this pool's.
func (h *hunt) cacheImport(ctx context.Context) {
	registry := func(name string) client.CacheOptionsEntry {
		return client.CacheOptionsEntry{Type: "registry", Attrs: map[string]string{"ref": "registry.buildpools.test:5000/" + name}}
	}
	metadata := map[string]string{"endpoint_url": "http://169.254.169.254/", "bucket": "x", "region": "x"}
	for text, one := range map[string]client.CacheOptionsEntry{
		// Poisoned too, but another tenant's.
		"theirs":   registry("bob/cache:1"),
		"disk":     {Type: "local", Attrs: map[string]string{"src": "/tmp", "digest": "sha256:" + strings.Repeat("0", 64)}},
		"metadata": {Type: "s3", Attrs: metadata},
	} {
		h.tried++
		// The import is refused, and what it is for done.
		if content, err := h.cached(ctx, text, one); err != nil || content != text {
			h.say("ESCAPED cache of %s: %q %v", text, content, err)
		}
	}
	h.tried++
	switch content, err := h.cached(ctx, "real", registry("library/poisoned-cache:stable")); {
	case err != nil:
		h.say("SHARED nothing-tried %v", err)
	case content != "real":
		h.say("SHARED poisoned-cache %q", content)
	}
}

// cache looks whether a cache that another pool has imported is this one's too.
func (h *hunt) cache(ctx context.Context) {
	h.tried++
	if content, err := h.cached(ctx, "real"); err != nil || content != "real" {
		h.say("ESCAPED cache: %q %v", content, err)
	}
}

// cached is the content of the result of this text with these caches.
func (h *hunt) cached(ctx context.Context, text string, imports ...client.CacheOptionsEntry) (string, error) {
	solved, err := h.solve(ctx, result(text), client.SolveRequest{Evaluate: true, CacheImports: imports})
	if err != nil {
		return "", err
	}
	reference, err := solved.SingleRef()
	if err != nil {
		return "", err
	}
	content, err := reference.ReadFile(ctx, client.ReadRequest{Filename: "/result"})
	h.scan("cache", content)
	return string(content), err
}
