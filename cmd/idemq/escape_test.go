package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWhatOthersWroteDoesNotReachTheTerminalRaw(t *testing.T) {
	t.Parallel()
	const evil = "a\x1b[2Jb\u009b1mc\u202ed\U000e0001e \u00e9\U0001f600"
	assert.Equal(t, "a\\u001b[2Jb\\u009b1mc\\u202ed\\udb40\\udc01e \u00e9\U0001f600\n\t", printable(evil+"\n\t"))

	assert.Equal(t, "\\x9b1m\ufffd", printable("\x9b1m\ufffd"), "no text, and so no C1 control either")

	var out bytes.Buffer
	a := &app{out: &out}
	require.NoError(t, a.print(map[string]string{"cause": evil}))
	assert.NotContains(t, out.String(), "\u202e")
	assert.NotContains(t, out.String(), "\u009b")
	var back map[string]string
	require.NoError(t, json.Unmarshal(out.Bytes(), &back))
	assert.Equal(t, evil, back["cause"], "escaped, not changed")
}
