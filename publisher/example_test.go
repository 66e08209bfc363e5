package publisher_test

import (
	"fmt"

	"github.com/idemq/idemq/publisher"
)

func ExampleKeyFromHeader() {
	key, err := publisher.KeyFromHeader(map[string][]string{"idempotency-key": {"order-4711"}})
	fmt.Println(key, err)
	_, err = publisher.KeyFromHeader(map[string][]string{"Idempotency-Key": {"order 4711"}})
	fmt.Println(err)
	// Output:
	// order-4711 <nil>
	// publisher: malformed idempotency key: byte 5 is 0x20; only visible ASCII (0x21 to 0x7E) is allowed (in header Idempotency-Key)
}
