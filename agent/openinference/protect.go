package openinference

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Protect keeps web pages from talking to a server on their visitor's own machine. It refuses, with 403, requests whose
// Host is neither a loopback address, localhost, nor a name that serves knows (a page can make its own name resolve to
// 127.0.0.1), and requests other than GET and HEAD that a browser sends for a page of another origin. serves may be nil.
func Protect(next http.Handler, serves func(host string) bool) http.Handler {
	how := "use localhost or 127.0.0.1"
	if serves != nil {
		how = "use a name or an address that the certificate has, or localhost on this machine"
	}
	crossOrigin := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// HTTP/1.0 knows no Host: health checks of load balancers speak it, and no browser does.
		if none := r.Host == "" && !r.ProtoAtLeast(1, 1); !none && !local(r.Host) && (serves == nil || !serves(hostname(r.Host))) {
			WriteError(w, &apiError{status: http.StatusForbidden, message: "the host name " + r.Host + " is not served here; " + how})
			return
		}
		if err := crossOrigin.Check(r); err != nil {
			WriteError(w, &apiError{status: http.StatusForbidden, message: "requests of web pages from elsewhere are refused"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func hostname(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.Trim(hostport, "[]")
}

func local(hostport string) bool {
	host := hostname(hostport)
	if strings.EqualFold(host, "localhost") {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}
