package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/host"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// imageEnv names a guest image that is to be booted (deploy/image/boot-test.sh).
const imageEnv = "GROVE_GUEST_IMAGE"

// TestGuestImage boots a guest image in an emulated machine (QEMU, no KVM) with a config drive as OpenStack makes it and an
// empty volume: its agent reports to a broker outside, and makes a database that is reached by the instance's address.
func TestGuestImage(t *testing.T) {
	image := os.Getenv(imageEnv)
	if image == "" {
		t.Skip("no guest image to boot: see deploy/image/boot-test.sh")
	}
	const volume, own, moving = "5a0d1c9e-7b1f-4c55-9d0e-2f6a8b3c4d5e", "10.0.2.15", "10.0.2.100"
	c := connect(t)
	b := c.account(t, &host.Host{Address: own})
	b.VolumeID = volume
	b.RPCURL = strings.Replace(b.RPCURL, "@127.0.0.1:", "@10.0.2.2:", 1) // this machine, as QEMU's network shows it
	dir := t.TempDir()
	run := func(argv ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", argv, err, out)
		}
	}
	disk, data, drive, console := filepath.Join(dir, "disk"), filepath.Join(dir, "data"), filepath.Join(dir, "drive"), filepath.Join(dir, "console")
	run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, disk, "6G")
	run("qemu-img", "create", "-q", "-f", "raw", data, "1G")
	writeConfigDrive(t, filepath.Join(dir, "config"), b)
	run("genisoimage", "-quiet", "-R", "-V", "config-2", "-o", drive, filepath.Join(dir, "config"))

	port := testbed.FreePort(t)
	vm := exec.Command("qemu-system-x86_64", "-machine", "pc", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "768",
		"-display", "none", "-monitor", "none", "-serial", "file:"+console, "-no-reboot", "-nodefaults", "-vga", "std",
		"-drive", "file="+disk+",if=none,id=root,format=qcow2", "-device", "virtio-blk-pci,drive=root,bootindex=0", "-cdrom", drive,
		"-drive", "file="+data+",if=none,id=data,format=raw", "-device", "virtio-blk-pci,drive=data,serial="+volume[:20],
		"-netdev", fmt.Sprintf("user,id=net,hostfwd=tcp:127.0.0.1:%d-%s:6379", port, moving), "-device", "virtio-net-pci,netdev=net")
	vm.Stderr = os.Stderr
	began := time.Now()
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = vm.Process.Kill()
		_ = vm.Wait()
		said, _ := os.ReadFile(console)
		for line := range strings.Lines(string(said)) {
			if strings.Contains(line, "cloud-init") && strings.Contains(line, "WARNING") {
				t.Errorf("the console has: %s", strings.TrimSpace(line))
			}
		}
		if t.Failed() {
			t.Logf("the console's last words:\n%s", said[max(0, len(said)-6000):])
		}
	})

	var first *guest.StatusReport
	select {
	case first = <-c.reports:
	case <-time.After(15 * time.Minute):
		t.Fatal("no report within 15 minutes")
	}
	t.Logf("%s from power on to the agent's first report", time.Since(began).Round(time.Second))
	sealed, err := guest.SealSecrets(first.PublicKey, map[string]string{datastore.SecretPassword: datastoretest.Password})
	if err != nil {
		t.Fatal(err)
	}
	keys := func(context.Context, string, []byte) ([]byte, error) { return b.RPCKey, nil }
	api := guest.NewClient(c.transport, "test", keys).Guest(&dbaas.Guest{ID: b.GuestID, Queue: b.Queue})
	d := datastoretest.Desired("7.0", &host.Host{Address: own})
	d.Secrets, d.Moving = nil, &datastore.MovingAddress{Address: moving, Here: true}
	fence := guest.Fence{GroupEpoch: 1, OperationID: "op", LeaseEpoch: 1, CommandID: "prepare"}
	testbed.Eventually(t, 2*time.Minute, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return api.Prepare(ctx, guest.PrepareRequest{Fence: fence, Desired: d, Sealed: sealed})
	})
	client := redis.NewClient(&redis.Options{Addr: fmt.Sprintf("127.0.0.1:%d", port), Password: datastoretest.Password, DisableIdentity: true, Protocol: 2})
	t.Cleanup(func() { _ = client.Close() })
	testbed.Eventually(t, time.Minute, func() error { return client.Set(t.Context(), "from", "outside", 0).Err() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	status, err := api.Status(ctx)
	if err != nil || status.Status.Status != dbaas.GuestHealthy || status.VolumeTotal < 900<<20 || status.VolumeTotal > 1<<30 {
		t.Errorf("%+v %v", status, err)
	}
	t.Logf("%s from power on to a write by the instance's address", time.Since(began).Round(time.Second))
	requireOwned(t, data, dir)
}

// requireOwned looks into a copy of the volume for whom the server's own files belong to: not to root.
func requireOwned(t *testing.T, volume, dir string) {
	t.Helper()
	seen := filepath.Join(dir, "seen")
	testbed.Eventually(t, 2*time.Minute, func() error { // the machine writes late
		text, err := exec.Command("cp", volume, seen).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, text)
		}
		_ = exec.Command("e2fsck", "-fy", seen).Run() // as after a loss of power; it says when it mended something
		text, err = exec.Command("debugfs", "-R", "stat /redis/appendonlydir", seen).CombinedOutput()
		_, owner, found := strings.Cut(string(text), "User:")
		if err != nil || !found {
			return fmt.Errorf("%w: %s", err, text)
		}
		if owner = strings.Fields(owner)[0]; owner == "0" {
			return fmt.Errorf("the server's files are root's: %s", text)
		}
		t.Logf("the server's files belong to the user %s", owner)
		return nil
	})
}

// writeConfigDrive writes what Nova puts on a config drive, with the user data that Grove gives it.
func writeConfigDrive(t *testing.T, dir string, b guest.Bootstrap) {
	t.Helper()
	bootstrap, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	userData, err := json.Marshal(map[string]any{
		"write_files": []map[string]string{{
			"path": "/etc/grove/bootstrap.json", "permissions": "0600", "encoding": "b64", "content": base64.StdEncoding.EncodeToString(bootstrap),
		}},
		"runcmd": [][]string{{"systemctl", "enable", "--now", "grove-agent"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	latest := filepath.Join(dir, "openstack", "latest")
	if err := os.MkdirAll(latest, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"meta_data.json": `{"uuid": "9d1f0d52-6a52-4f6c-8f43-0d4c4b8f9a11", "name": "guest", "hostname": "guest", "availability_zone": "nova"}`,
		"user_data":      "#cloud-config\n" + string(userData),
	} {
		if err := os.WriteFile(filepath.Join(latest, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
