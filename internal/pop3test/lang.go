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

var german = map[string]string{
	"Argument is missing":                        "Argument fehlt",
	"Argument is no number":                      "Argument ist keine Zahl",
	"Authentication cancelled":                   "Anmeldung abgebrochen",
	"Authentication failed":                      "Anmeldung fehlgeschlagen",
	"Begin TLS negotiation":                      "TLS-Aushandlung beginnen",
	"Capability list follows":                    "Liste der Fähigkeiten folgt",
	"Command is not valid in this state":         "Befehl ist in diesem Zustand nicht erlaubt",
	"Command too long":                           "Befehl ist zu lang",
	"Deletions undone":                           "Löschungen zurückgenommen",
	"Goodbye":                                    "Auf Wiedersehen",
	"Language changed":                           "Sprache geändert",
	"Language listing follows":                   "Liste der Sprachen folgt",
	"Logged in":                                  "Angemeldet",
	"Maildrop is locked by another session":      "Postfach ist durch eine andere Sitzung gesperrt",
	"Mechanism is not available":                 "Verfahren steht nicht zur Verfügung",
	"Mechanisms follow":                          "Verfahren folgen",
	"Message deleted":                            "Nachricht gelöscht",
	"Message is deleted":                         "Nachricht ist gelöscht",
	"Message needs UTF-8 mode":                   "Nachricht braucht den UTF-8-Modus",
	"Minimum time between logins has not passed": "Mindestzeit zwischen Anmeldungen ist nicht vergangen",
	"No such message":                            "Keine solche Nachricht",
	"Not base64":                                 "Kein Base64",
	"Pipelining is not available":                "Pipelining steht nicht zur Verfügung",
	"Scan listing follows":                       "Liste der Nachrichten folgt",
	"Send the password":                          "Passwort senden",
	"TLS is active already":                      "TLS ist schon aktiv",
	"TLS is required":                            "TLS ist erforderlich",
	"USER comes first":                           "USER kommt zuerst",
	"UTF-8 mode":                                 "UTF-8-Modus",
	"Unique-id listing follows":                  "Liste der Kennungen folgt",
	"Unknown command":                            "Unbekannter Befehl",
	"Unknown language":                           "Unbekannte Sprache",
	"octets":                                     "Oktette",
}

var spanish = map[string]string{
	"Argument is missing":                        "Falta el argumento",
	"Argument is no number":                      "El argumento no es un número",
	"Authentication cancelled":                   "Autenticación cancelada",
	"Authentication failed":                      "Autenticación fallida",
	"Begin TLS negotiation":                      "Comience la negociación TLS",
	"Capability list follows":                    "Sigue la lista de capacidades",
	"Command is not valid in this state":         "La orden no es válida en este estado",
	"Command too long":                           "Orden demasiado larga",
	"Deletions undone":                           "Borrados deshechos",
	"Goodbye":                                    "Adiós",
	"Language changed":                           "Idioma cambiado",
	"Language listing follows":                   "Sigue la lista de idiomas",
	"Logged in":                                  "Sesión iniciada",
	"Maildrop is locked by another session":      "Otra sesión bloquea el buzón",
	"Mechanism is not available":                 "Mecanismo no disponible",
	"Mechanisms follow":                          "Siguen los mecanismos",
	"Message deleted":                            "Mensaje borrado",
	"Message is deleted":                         "El mensaje está borrado",
	"Message needs UTF-8 mode":                   "El mensaje necesita el modo UTF-8",
	"Minimum time between logins has not passed": "No ha pasado el tiempo mínimo entre sesiones",
	"No such message":                            "No existe ese mensaje",
	"Not base64":                                 "No es base64",
	"Pipelining is not available":                "Pipelining no disponible",
	"Scan listing follows":                       "Sigue la lista de mensajes",
	"Send the password":                          "Envíe la contraseña",
	"TLS is active already":                      "TLS ya está activo",
	"TLS is required":                            "Se requiere TLS",
	"USER comes first":                           "Primero USER",
	"UTF-8 mode":                                 "Modo UTF-8",
	"Unique-id listing follows":                  "Sigue la lista de identificadores",
	"Unknown command":                            "Orden desconocida",
	"Unknown language":                           "Idioma desconocido",
	"octets":                                     "octetos",
}
