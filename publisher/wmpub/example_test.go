package wmpub_test

import (
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/idemq/idemq/publisher/wmpub"
)

func ExampleDecorate() {
	var broker collector // any publisher of Watermill
	pub, err := wmpub.Decorate(&broker, wmpub.Config{
		KeyFunc: func(_ string, _ map[string][]string, body []byte) (string, error) {
			return "order-" + string(body), nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	msg := message.NewMessage("6f1c", []byte("4711"))
	fmt.Println(pub.Publish("orders", msg), msg.Metadata.Get("Idempotency-Key"))
	// Output: <nil> order-4711
}
