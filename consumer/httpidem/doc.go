// Package httpidem is net/http middleware for the Idempotency-Key header: a client that does not know whether its POST
// took effect sends it again with the same key, and gets the first answer instead of a second effect.
//
//	idem, err := httpidem.New(d, httpidem.Config{Principal: tenantOf})
//	mux.Handle("POST /cart/items", idem(addItem))
//
// It is a plain func(http.Handler) http.Handler, and so fits the standard mux, chi, and whatever else takes one.
//
//	the key is            the answer is
//	missing, malformed    400, nothing runs
//	new                   the handler's own
//	at work               409 with Retry-After, or with Wait that of the one at work
//	consumed              the stored answer with Idempotent-Replayed: true; 200 in the place of a 201
//	of another request    422
//	dead                  409 without Retry-After, type ProblemDead
//	not to be looked up   503 with Retry-After; nothing ran (or it runs untracked, with StoreOpen). A store that has failed
//	                      five times in a row is tried every two seconds, and no other request waits for it
//	handled, unrecorded   503 with Idempotent-Unrecorded: true; a retry may repeat the effect
//
// Answers of the middleware itself are application/problem+json with type, title, status and detail.
//
// # Routers
//
// The standard mux and chi take it for one route or for many; see the examples. Gin and Echo have handlers of their own kind:
//
//	http.ListenAndServe(addr, idem(engine))                        Gin and Echo: all routes, around the whole engine
//	engine.POST("/cart/items", gin.WrapH(idem(addItem)))           Gin: one route, whose handler is a http.Handler
//	e.Use(echo.WrapMiddleware(idem), answerErrors)                 Echo: as a middleware, with answerErrors inside of it
//
// Echo answers an error that a handler returns after all its middlewares, which is too late: to this middleware the handler
// has succeeded without writing anything, and that is recorded. So the error must be answered inside of it:
//
//	func answerErrors(next echo.HandlerFunc) echo.HandlerFunc {
//		return func(c echo.Context) error {
//			if err := next(c); err != nil {
//				c.Error(err)
//			}
//			return nil
//		}
//	}
//
// Neither of them sets the request's pattern: keys are scoped by path, so that one key at two paths of a route is two
// operations.
//
// # Whose key it is
//
// A key is scoped by Service, Principal, method, and the route's pattern (or the path, where the mux has set none or one
// of a whole subtree). Principal is required, because without it one tenant who guesses another's key is shown the
// other's answer; put the middleware inside of what authenticates. What does not fit into a scope is digested.
//
// # What the client sees, and when
//
// The answer is held back until the store has acknowledged that the key is consumed. A handler that flushes, hijacks, or
// writes more than ResponseLimit streams instead: what leaves before the end may reach a client although the settlement
// then fails, and in that case the connection is cut. A panic sends nothing and goes on to whoever recovers it.
//
// A handler that ends with 429, 5xx or a panic has its claim released, so that the same key runs again, until
// Config.MaxAttempts of package dedup make the key dead; 429 does not count. If such an answer can follow the effect,
// say so by Classify, or the effect is repeated.
//
// A client that goes away does not stop the handler: its context ends when the lease is lost, and with the client's only
// if CancelWithClient is set. A crash of the process between effect and settlement repeats the effect; only the handler's
// sink can bar that, by the key that dedup.KeyFrom gives.
//
// # Defaults
//
//	Config.Principal             required       SingleTenant is the choice of having one
//	Config.Service               ""             needed where several services share a store
//	Config.Methods               POST, PATCH    others pass untouched
//	Config.KeyOptional           false          a request without a key is refused
//	Config.Fingerprint           BodyFingerprint    method, path, query and body; JSONFingerprint is the other one
//	Config.Classify              DefaultClassify    429, 5xx, panic: released; all else is kept
//	Config.OnBusy                409            Wait(d) waits for the outcome
//	Config.MaxRetryAfter         5 s            the largest Retry-After of a busy key
//	Config.StoreDown             StoreClosed    503; StoreOpen runs untracked
//	Config.StoreRetryAfter       5 s            the Retry-After of those 503
//	Config.BodyLimit             1 MiB          of a request's body; 413 above
//	Config.ResponseLimit         256 KiB        of an answer's stored body; above, it streams and is not stored
//	Config.ReplayOriginalStatus  false          a replayed 201 is a 200
//	Config.CancelWithClient      false          the handler goes on when the client goes away
//	Config.Logger                slog.Default
//	Config.Observe               nothing
//
// Lease, retention and attempts are those of the Deduper.
package httpidem
