module example.com/pop3

go 1.25
