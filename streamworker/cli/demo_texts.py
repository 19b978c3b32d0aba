"""The words on the demo's documents, in eight languages; the built-in font has no ß, ø, œ or €, so they stay out."""

from __future__ import annotations

from typing import NamedTuple


class Language(NamedTuple):
    """What an invoice and a letter say in one language."""

    invoice: str
    date: str
    customer: str
    total: str
    terms: str
    goods: tuple[str, ...]
    letter: tuple[str, ...]


LANGUAGES: dict[str, Language] = {
    "en": Language(
        "Invoice",
        "Date",
        "Bill to",
        "Total due",
        "Please pay within thirty days. Thank you for your business.",
        ("Office chair", "Desk lamp", "Printer paper, box", "Wall clock", "Filing cabinet"),
        (
            "Dear Mrs Whitfield,",
            "thank you for your letter of last week. We have looked into the delay of your",
            "delivery and found that the parcel was sent to our old warehouse by mistake.",
            "It left the harbour this morning and should reach you before the weekend.",
            "We are sorry for the trouble and have taken ten per cent off the next order.",
            "Yours sincerely,",
            "Harold Bennett",
        ),
    ),
    "de": Language(
        "Rechnung",
        "Datum",
        "Rechnung an",
        "Gesamtbetrag",
        "Bitte überweisen Sie den Betrag innerhalb von vierzehn Tagen.",
        ("Bürostuhl", "Schreibtischlampe", "Druckerpapier, Karton", "Wanduhr", "Aktenschrank"),
        (
            "Sehr geehrte Frau Schäfer,",
            "vielen Dank für Ihr Schreiben von letzter Woche. Wir haben die Verzögerung Ihrer",
            "Lieferung geprüft und festgestellt, dass das Paket irrtümlich in unser altes Lager",
            "geschickt wurde. Es hat heute früh den Hafen verlassen und müsste Sie noch vor dem",
            "Wochenende erreichen. Für die Umstände möchten wir uns bei Ihnen entschuldigen.",
            "Mit freundlichen Empfehlungen",
            "Jürgen Köhler",
        ),
    ),
    "fr": Language(
        "Facture",
        "Date",
        "Facturé à",
        "Total à payer",
        "Merci de régler cette facture sous trente jours.",
        ("Chaise de bureau", "Lampe de table", "Ramettes de papier", "Horloge murale", "Armoire à dossiers"),
        (
            "Chère Madame Lefèvre,",
            "nous vous remercions de votre lettre de la semaine dernière. Après vérification, le",
            "colis a été envoyé par erreur à notre ancien entrepôt. Il a quitté le port ce matin",
            "et devrait vous être livré avant la fin de la semaine. Nous vous prions de bien",
            "vouloir nous excuser et vous accordons une remise sur la prochaine commande.",
            "Veuillez agréer nos salutations distinguées,",
            "Hélène Dubois",
        ),
    ),
    "es": Language(
        "Factura",
        "Fecha",
        "Facturar a",
        "Total a pagar",
        "Le rogamos que pague esta factura en un plazo de treinta días.",
        ("Silla de oficina", "Lámpara de mesa", "Papel para impresora", "Reloj de pared", "Archivador metálico"),
        (
            "Estimada señora Muñoz:",
            "le agradecemos su carta de la semana pasada. Hemos revisado el retraso de su pedido",
            "y el paquete fue enviado por error a nuestro antiguo almacén. Esta mañana salió del",
            "puerto y debería llegar a su domicilio antes del fin de semana. Lamentamos mucho",
            "las molestias y le haremos un descuento en su próximo pedido.",
            "Reciba un cordial saludo,",
            "Íñigo Fernández",
        ),
    ),
    "it": Language(
        "Fattura",
        "Data",
        "Intestata a",
        "Totale da pagare",
        "Si prega di saldare la fattura entro trenta giorni.",
        ("Sedia da ufficio", "Lampada da tavolo", "Carta per stampante", "Orologio da parete", "Schedario"),
        (
            "Gentile signora Rossetti,",
            "la ringraziamo per la sua lettera della settimana scorsa. Abbiamo verificato il",
            "ritardo della consegna: il pacco è stato spedito per errore al nostro vecchio",
            "magazzino. Questa mattina ha lasciato il porto e arriverà già prima del fine",
            "settimana. Ci scusiamo per il disagio e le offriamo uno sconto sul prossimo ordine.",
            "Con i più cordiali saluti,",
            "Niccolò Bianchi",
        ),
    ),
    "nl": Language(
        "Factuur",
        "Datum",
        "Factuur aan",
        "Te betalen",
        "Wilt u deze factuur binnen dertig dagen betalen?",
        ("Bureaustoel", "Bureaulamp", "Printerpapier", "Wandklok", "Archiefkast"),
        (
            "Geachte mevrouw Van der Meer,",
            "hartelijk dank voor uw brief van vorige week. Wij hebben de vertraging van uw",
            "bestelling onderzocht en het pakket bleek naar ons oude magazijn te zijn gestuurd.",
            "Het heeft vanmorgen de haven verlaten en zou u voor het weekeinde moeten bereiken.",
            "Onze excuses voor het ongemak; op uw volgende bestelling krijgt u korting.",
            "Met vriendelijke groet,",
            "Sjoerd de Vries",
        ),
    ),
    "pt": Language(
        "Fatura",
        "Data",
        "Faturar a",
        "Total a pagar",
        "Agradecemos o pagamento desta fatura no prazo de trinta dias.",
        ("Cadeira de escritório", "Candeeiro de mesa", "Papel para impressora", "Relógio de parede", "Arquivador"),
        (
            "Prezada senhora Conceição,",
            "agradecemos a sua carta da semana passada. Verificámos o atraso da sua encomenda e",
            "o pacote foi enviado por engano para o nosso antigo armazém. Saiu do porto esta",
            "manhã e deverá chegar à sua morada antes do fim de semana. Pedimos desculpa pela",
            "situação e não deixaremos de lhe oferecer um desconto na próxima encomenda.",
            "Com os melhores cumprimentos,",
            "João Guimarães",
        ),
    ),
    "sv": Language(
        "Faktura",
        "Datum",
        "Faktureras till",
        "Att betala",
        "Vänligen betala fakturan inom trettio dagar.",
        ("Kontorsstol", "Skrivbordslampa", "Skrivarpapper", "Väggklocka", "Arkivskåp"),
        (
            "Bästa fru Åkesson,",
            "tack för ert brev från förra veckan. Vi har undersökt varför leveransen blev sen",
            "och det visade sig att paketet av misstag hade skickats till vårt gamla lager.",
            "Det lämnade hamnen i morse och bör nå er före helgen. Vi ber om ursäkt för",
            "besväret och ger er tio procents rabatt på nästa beställning.",
            "Med vänliga hälsningar,",
            "Göran Sjöström",
        ),
    ),
}

SHOPS = ("Corner Bakery", "Green Grocer", "City Books", "Harbour Cafe", "Old Mill Hardware", "Station Kiosk", "Garden Centre")
WARES = ("Bread", "Milk", "Apples", "Coffee", "Notebook", "Pencils", "Batteries", "Soap", "Tea", "Honey", "Candles", "Matches")
PEOPLE = ("Anna Berg", "Peter Novak", "Maria Costa", "John Hill", "Eva Lind", "Paul Martin", "Laura Conti", "Omar Haddad", "Nina Petrova")
STREETS = ("Mill Lane 4", "Harbour Road 17", "Station Street 8", "Church Square 2", "Park Avenue 31", "Castle Hill 12")
FIRMS = ("Northwind Trading", "Bluebird Supplies", "Atlas Furniture", "Orchard Services", "Lighthouse Logistics", "Maple & Sons")
