//go:build wasip1

// Command is a WASI program for tests of the host: the first word of what it reads says what it does.
package main

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"time"
)

var calls int

func main() {
	calls++
	in := bufio.NewReader(os.Stdin)
	word, _ := in.Peek(5)
	switch string(word) {
	case "echo ":
		if _, err := io.Copy(os.Stdout, in); err != nil {
			panic(err)
		}
	case "exit ":
		fmt.Fprintln(os.Stderr, "no  photo here")
		os.Exit(65)
	case "fail ":
		fmt.Fprintln(os.Stderr, "cannot")
		os.Exit(3)
	case "panic":
		panic("so be it")
	case "spin ":
		for {
			calls++
		}
	case "flood":
		for {
			fmt.Println(strings.Repeat("x", 1000))
		}
	case "world":
		began := time.Now()
		time.Sleep(time.Hour)
		_, err := os.Open("/etc/passwd")
		fmt.Printf("%d %v %s %x %v %q %q", calls, began.UTC().Format("2006-01-02"), time.Since(began).Round(time.Hour), rand.Uint64(), err, os.Args, os.Environ())
	case "files":
		b, err := os.ReadFile("/labels.txt")
		entries, listErr := os.ReadDir("/")
		_, outErr := os.Stat("/../outside")
		fmt.Printf("%q %v %v %v %v %v", b, err, entries, listErr, outErr, os.WriteFile("/new", nil, 0o600))
	default:
		_, _ = io.Copy(os.Stdout, in)
	}
}
