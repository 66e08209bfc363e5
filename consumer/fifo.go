package consumer

// fifo is a queue. Its zero value is empty.
type fifo[T any] struct {
	items []T
	head  int
}

func (q *fifo[T]) len() int { return len(q.items) - q.head }

func (q *fifo[T]) push(v ...T) {
	if q.head > 0 && len(q.items)+len(v) > cap(q.items) { // move up before growing
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, v...)
}

// first returns the oldest item. There must be one.
func (q *fifo[T]) first() T { return q.items[q.head] }

// pop removes the oldest item. There must be one.
func (q *fifo[T]) pop() T {
	var zero T
	v := q.items[q.head]
	q.items[q.head] = zero // for the garbage collector
	if q.head++; q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return v
}

// take removes the n oldest items.
func (q *fifo[T]) take(n int) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = q.pop()
	}
	return out
}
