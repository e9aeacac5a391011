package host

import (
	"os"
	"path/filepath"
	"testing"
)

// A machine of the guest's own is set as its database needs it; a shared one is only looked at.
func TestSettle(t *testing.T) {
	file := func(value string) string {
		path := filepath.Join(t.TempDir(), "setting")
		if err := os.WriteFile(path, []byte(value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	is := func(want string) func(string) bool { return func(v string) bool { return v == want } }
	settings := []Setting{
		{Path: file("1"), Want: "1", Fits: is("1")},
		{Path: file("0"), Want: "1", Fits: is("1")},
		{Path: filepath.Join(t.TempDir(), "absent"), Want: "1", Fits: is("1")},
	}
	shared := &Host{}
	if unfit, err := shared.Settle(settings); err != nil || len(unfit) != 1 || unfit[0].Value != "0" || unfit[0].Path != settings[1].Path {
		t.Errorf("shared: %+v, %v", unfit, err)
	}
	dedicated := &Host{Dedicated: true}
	if unfit, err := dedicated.Settle(settings); err != nil || len(unfit) != 0 {
		t.Errorf("dedicated: %+v, %v", unfit, err)
	}
	if b, err := os.ReadFile(settings[1].Path); err != nil || string(b) != "1" {
		t.Errorf("the setting is %q, %v", b, err)
	}
	stubborn := []Setting{{Path: settings[1].Path, Want: "1", Fits: is("2")}}
	if unfit, err := dedicated.Settle(stubborn); err != nil || len(unfit) != 1 {
		t.Errorf("what does not take: %+v, %v", unfit, err)
	}
}
