// Package httppub is an http.RoundTripper that makes a request safe to repeat: it stamps the Idempotency-Key header on
// requests that are not idempotent by nature, keeps the key over retries, and retries what a retry can mend.
//
//	client := &http.Client{Transport: httppub.New(nil, httppub.Config{})}
//	r, err := http.NewRequestWithContext(httppub.WithKey(ctx, "order-4711"), http.MethodPost, url, body)
//	resp, err := client.Do(r)
//
// The best key is one that the operation has already; a random one, the default, protects from this transport's own
// retries only. A redirect is another request: with a random key it gets another one.
//
// It is meant for servers that know the header, such as those behind package httpidem. One that does not runs the
// request again with each retry.
//
// In a handler of consumed messages take the key of the message:
//
//	client := &http.Client{Transport: httppub.New(nil, httppub.Config{KeyFunc: httppub.HandlerKey("charge")})}
//
// # What is retried
//
// A try that failed in the network or did not answer in time, and the answers 502, 503 and 504, after a growing pause; and
// 409 if it has Retry-After, since that says that the first try is still at work. A Retry-After is obeyed up to
// MaxRetryAfter; an answer that asks for more is given to the caller, as is the last one, and one for whose retry the
// context leaves no time. An answer with Idempotent-Unrecorded is given to the caller at once: the effect is done and the
// server could not record it, so that a retry may repeat it.
//
// A body is sent again by the request's GetBody, which http.NewRequest sets for the common readers. One without is
// buffered up to BodyLimit; a larger one is sent once.
//
// # Defaults
//
//	key                          the header, else WithKey, else Config.KeyFunc, else a new UUIDv7
//	Config.Methods               POST, PUT, PATCH, DELETE; others pass untouched
//	Config.Quoted                false     Idempotency-Key: order-4711; true: "order-4711"
//	Config.Retry.Attempts        5         negative: no limit but the context
//	Config.Retry.AttemptTimeout  30 s      until the answer's header is there; not for its body
//	Config.Retry.Initial         100 ms    doubled each time, ± 50 %
//	Config.Retry.Max             5 s
//	Config.MaxRetryAfter         30 s
//	Config.BodyLimit             1 MiB
package httppub
