package operators_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/fleet/store"
	"github.com/dhowfleet/dhow/fleet/store/operators"
	"github.com/dhowfleet/dhow/test/failpoint/killtest"
)

const admin = "admin"

func open(t *testing.T, path string) *operators.Tokens {
	t.Helper()
	s, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.Operators()
}

func create(t *testing.T, tokens *operators.Tokens, name, role string) string {
	t.Helper()
	secret, err := tokens.Create(t.Context(), name, role)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func TestTokenLife(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	tokens, other := open(t, path), open(t, path) // as the command and the manager that runs
	ana, ben := create(t, tokens, "ana", admin), create(t, tokens, "ben", admin)
	if name, role, err := other.Check(t.Context(), ana); err != nil || name != "ana" || role != admin {
		t.Errorf("the token of ana is %s, %s (%v)", name, role, err)
	}
	for _, wrong := range []string{"", ana + "x", ana[1:], "dhow-op-"} {
		if _, _, err := other.Check(t.Context(), wrong); !errors.Is(err, operators.ErrUnknown) {
			t.Errorf("%q is taken (%v)", wrong, err)
		}
	}
	if _, err := tokens.Create(t.Context(), "ana", admin); !errors.Is(err, operators.ErrTaken) {
		t.Errorf("a second token of the same name: %v", err)
	}
	for range 2 {
		if err := tokens.Revoke(t.Context(), "ana", admin); err != nil {
			t.Fatal(err)
		}
	}
	if name, role, err := other.Check(t.Context(), ana); !errors.Is(err, operators.ErrRevoked) || name != "ana" || role != "" {
		t.Errorf("the revoked token is %s, %s (%v)", name, role, err)
	}
	second := create(t, tokens, "ana", admin)
	if _, _, err := other.Check(t.Context(), ana); second == ana || !errors.Is(err, operators.ErrRevoked) {
		t.Errorf("a new token of the name revived the old one (%v)", err)
	}
	for _, secret := range []string{second, ben} {
		if _, _, err := other.Check(t.Context(), secret); err != nil {
			t.Error(err)
		}
	}
	list, err := other.List(t.Context())
	var got []string
	for _, k := range list {
		got = append(got, fmt.Sprintf("%s %s %v", k.Name, k.Role, k.RevokedAt.IsZero()))
		if k.CreatedAt.IsZero() {
			t.Errorf("%+v has no time", k)
		}
	}
	if want := []string{"ana admin true", "ben admin true", "ana admin false"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("the list is %v (%v), want %v", got, err, want)
	}
}

func TestTheLastOneOfARoleIsKept(t *testing.T) {
	tokens := open(t, filepath.Join(t.TempDir(), "fleet.db"))
	ana := create(t, tokens, "ana", admin)
	create(t, tokens, "rob", "viewer")
	if err := tokens.Revoke(t.Context(), "ana", admin); !errors.Is(err, operators.ErrLast) {
		t.Errorf("the last administrator's token is revoked: %v", err)
	}
	if _, _, err := tokens.Check(t.Context(), ana); err != nil {
		t.Error(err)
	}
	if err := tokens.Revoke(t.Context(), "rob", admin); err != nil {
		t.Errorf("another role's last one: %v", err)
	}
	if err := tokens.Revoke(t.Context(), "ana", ""); err != nil {
		t.Errorf("by force: %v", err)
	}
	if err := tokens.Revoke(t.Context(), "nobody", admin); !errors.Is(err, operators.ErrUnknown) || !strings.Contains(err.Error(), `"nobody"`) {
		t.Errorf("one that never was: %v", err)
	}
}

func TestNames(t *testing.T) {
	tokens := open(t, filepath.Join(t.TempDir(), "fleet.db"))
	for _, name := range []string{"", "Ana", "a b", "-", "ana\n", strings.Repeat("x", 64)} {
		if _, err := tokens.Create(t.Context(), name, admin); err == nil {
			t.Errorf("a token is called %q", name)
		}
	}
}

// TestMain is also the process that TestKilledAtEveryWritePoint lets die.
func TestMain(m *testing.M) {
	if path := os.Getenv("DHOW_OPERATORS_VICTIM"); path != "" {
		fmt.Fprintln(os.Stderr, victim(path))
		os.Exit(3)
	}
	os.Exit(m.Run())
}

func victim(path string) error {
	s, err := store.Open(context.Background(), path)
	if err != nil {
		return err
	}
	secret, err := s.Operators().Create(context.Background(), "ana", admin)
	if err != nil {
		return err
	}
	fmt.Println(secret)
	return errors.Join(s.Operators().Revoke(context.Background(), "ana", ""), errors.New("nothing killed it"))
}

func TestKilledAtEveryWritePoint(t *testing.T) {
	for point, want := range map[string]struct {
		listed int
		check  error
	}{
		"operators/create": {0, operators.ErrUnknown}, "operators/create-committed": {1, operators.ErrUnknown}, // its secret was never said
		"operators/revoke": {1, nil}, "operators/revoke-committed": {1, operators.ErrRevoked},
	} {
		t.Run(strings.ReplaceAll(point, "/", " "), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "fleet.db")
			said := killtest.Killed(t, point, []string{"DHOW_OPERATORS_VICTIM=" + path})
			tokens := open(t, path)
			list, err := tokens.List(t.Context())
			if err != nil || len(list) != want.listed {
				t.Errorf("it left %v (%v)", list, err)
			}
			if _, _, err := tokens.Check(t.Context(), strings.TrimSpace(said)); !errors.Is(err, want.check) {
				t.Errorf("the token: %v, want %v", err, want.check)
			}
		})
	}
}
