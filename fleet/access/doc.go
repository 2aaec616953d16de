// Package access decides who may call what. It is the one gate before every handler of the fleet manager.
//
// The routes are a table: each Route has a pattern, a Rule and a handler, and New refuses to build when a rule is
// missing, so that nothing is served by oversight. A request goes through the gate as follows: the table finds its
// route (404 without one), the rule is asked, and only then does the handler see the request, with the Principal who
// was let in in its context. What no rule allows is denied.
//
// Operators bring a token, as Bearer or as the password of Basic, which is what OCI clients can. Wrong tokens are
// counted for each remote address; an address that guesses is made to wait. Nodes bring a client certificate, which
// protocol/transport has checked; the gate only asks whose it is.
//
// A token's check is never remembered. The context of an operator's request that lasts, such as a watch, ends within
// about a second after the token was revoked.
//
// The gate holds a bounded table of addresses behind a mutex and blocks only for the check of a token. It is safe for
// concurrent use.
package access
