package pop3test

import (
	"slices"
	"strings"
)

// A language is what LANG (RFC 6856 section 3) selects; nil is English.
type language struct {
	tag, name string
	texts     map[string]string
}

var languages = []*language{
	{tag: "en", name: "English"},
	{tag: "de", name: "Deutsch", texts: german},
	{tag: "es", name: "Español", texts: spanish},
}

// matchLanguage finds the language of a basic language range (RFC 4647
// section 2.1). "*" is what the administrator prefers, here the first.
func matchLanguage(tag string) *language {
	i := slices.IndexFunc(languages, func(l *language) bool {
		return tag == "*" || strings.EqualFold(tag, l.tag)
	})
	if i < 0 {
		return nil
	}
	return languages[i]
}

func (l *language) text(english string) string {
	if l != nil {
		if t, ok := l.texts[english]; ok {
			return t
		}
	}
	return english
}

// Two texts show that a language was selected: the answer to LANG, and one that tests
// meet behind it.
var (
	german = map[string]string{
		"Language changed":      "Sprache geändert",
		"Authentication failed": "Anmeldung fehlgeschlagen",
	}
	spanish = map[string]string{
		"Language changed":      "Idioma cambiado",
		"Authentication failed": "Autenticación fallida",
	}
)
