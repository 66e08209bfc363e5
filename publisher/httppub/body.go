package httppub

import (
	"bytes"
	"io"
	"net/http"
)

// bodies returns a function that gives the body of each try, and whether there can be a second one. The first one is, or
// reads from, r's own, which the transport below closes.
func (t *Transport) bodies(r *http.Request) (next func() (io.ReadCloser, error), again bool, err error) {
	if r.Body == nil || r.Body == http.NoBody {
		return func() (io.ReadCloser, error) { return r.Body, nil }, true, nil
	}
	if r.GetBody != nil {
		first := true
		return func() (io.ReadCloser, error) {
			if first {
				first = false
				return r.Body, nil
			}
			return r.GetBody()
		}, true, nil
	}
	kept, err := io.ReadAll(io.LimitReader(r.Body, t.cfg.BodyLimit+1))
	if err != nil {
		return nil, false, err
	}
	if int64(len(kept)) > t.cfg.BodyLimit {
		body := struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(kept), r.Body), r.Body}
		return func() (io.ReadCloser, error) { return body, nil }, false, nil
	}
	if err := r.Body.Close(); err != nil {
		return nil, false, err
	}
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(kept)), nil }, true, nil
}
